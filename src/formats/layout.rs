//! The order of a stored tensor's numbers, for reading and writing.
//!
//! A [`Layout`] maps between the order in a file and that of transformers. Transposed matrices, slices and parts of
//! fused weights are strided; llama.cpp interleaves rotary pairs and adds one to Gemma's norms.

use anyhow::{Result, bail};

use crate::device::{Element, zeros};

/// The order of a tensor's numbers in a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Layout {
    /// Contiguous, in row-major order.
    #[default]
    Plain,
    /// Strided; other numbers may lie in the gaps.
    Strided(Strides),
    /// The rows of each rotary pair are adjacent within a head; transformers has all first halves before all second
    /// ones.
    RotaryPairs {
        /// The number of heads.
        heads: usize,
    },
    /// Stored plus this offset.
    Offset(f32),
}

/// A strided layout.
#[derive(Clone, Debug, PartialEq)]
pub struct Strides {
    /// The tensor's shape.
    pub shape: Vec<usize>,
    /// The distance between neighbours along each dimension, in numbers.
    pub strides: Vec<usize>,
    /// The distance from the first to the last number, plus 1; 0 if empty.
    pub span: usize,
}

impl Strides {
    /// The position of the i-th number in row-major order.
    fn place(&self, mut i: usize) -> usize {
        let mut place = 0;
        for (dim, stride) in self.shape.iter().zip(&self.strides).rev() {
            place += i % dim * stride;
            i /= dim;
        }
        place
    }
}

/// The position of row `row` of a head of `rows` rows if rotary pairs are adjacent.
fn paired(row: usize, rows: usize) -> usize {
    let half = rows / 2;
    row % half * 2 + row / half
}

impl Layout {
    /// The number of stored numbers that a tensor of this shape spans.
    pub fn span(&self, shape: &[usize]) -> usize {
        match self {
            Layout::Strided(strides) => strides.span,
            _ => shape.iter().product(),
        }
    }

    /// The offset included in the stored numbers.
    pub fn offset(&self) -> f32 {
        if let Layout::Offset(offset) = self { *offset } else { 0.0 }
    }

    /// Extracts a tensor from the `stored` numbers, [`Layout::span`] of them. Does not subtract the offset.
    pub fn read<T: Element>(&self, stored: Vec<T>, shape: &[usize]) -> Result<Vec<T>> {
        match self {
            Layout::Plain | Layout::Offset(_) => Ok(stored),
            Layout::Strided(strides) => {
                let mut numbers = zeros(shape.iter().product())?;
                numbers.iter_mut().enumerate().for_each(|(i, number)| *number = stored[strides.place(i)]);
                Ok(numbers)
            }
            Layout::RotaryPairs { heads } => by_heads(stored, shape, *heads, |row, rows| (row, paired(row, rows))),
        }
    }

    /// The inverse of [`Layout::read`]. Gaps are 0; the offset is not added.
    pub fn write<T: Element>(&self, numbers: Vec<T>, shape: &[usize]) -> Result<Vec<T>> {
        match self {
            Layout::Plain | Layout::Offset(_) => Ok(numbers),
            Layout::Strided(strides) => {
                let mut stored = zeros(strides.span)?;
                numbers.iter().enumerate().for_each(|(i, number)| stored[strides.place(i)] = *number);
                Ok(stored)
            }
            Layout::RotaryPairs { heads } => by_heads(numbers, shape, *heads, |row, rows| (paired(row, rows), row)),
        }
    }
}

/// Permutes the rows of each head: `places` gives (to, from) for each row and the number of rows.
fn by_heads<T: Element>(
    mut numbers: Vec<T>,
    shape: &[usize],
    heads: usize,
    places: impl Fn(usize, usize) -> (usize, usize),
) -> Result<Vec<T>> {
    let width: usize = shape[1..].iter().product();
    let rows = shape[0] / heads.max(1);
    if rows * heads != shape[0] || !rows.is_multiple_of(2) {
        bail!("{} rows are not {heads} heads of rotary pairs", shape[0]);
    }
    let mut whole = Vec::with_capacity(rows * width);
    for head in numbers.chunks_mut((rows * width).max(1)) {
        whole.clear();
        whole.extend_from_slice(head);
        for row in 0..rows {
            let (to, from) = places(row, rows);
            head[to * width..][..width].copy_from_slice(&whole[from * width..][..width]);
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Write and read are inverse for every layout, and the positions follow the definition.
    #[test]
    fn every_layout_is_undone_by_its_reading() -> Result<()> {
        let numbers: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let transposed = Layout::Strided(Strides { shape: vec![4, 6], strides: vec![1, 4], span: 24 });
        // Rows 1 and 2 of three fused ones, with a stride of three rows.
        let fused = Layout::Strided(Strides { shape: vec![4, 6], strides: vec![18, 1], span: 60 });
        let pairs = Layout::RotaryPairs { heads: 1 };
        for layout in [Layout::Plain, transposed.clone(), fused.clone(), pairs.clone(), Layout::Offset(1.0)] {
            let stored = layout.write(numbers.clone(), &[4, 6])?;
            assert_eq!(stored.len(), layout.span(&[4, 6]), "{layout:?}");
            assert_eq!(layout.read(stored, &[4, 6])?, numbers, "{layout:?}");
        }
        assert_eq!(transposed.write(numbers.clone(), &[4, 6])?[..5], [0.0, 6.0, 12.0, 18.0, 1.0]);
        assert_eq!(fused.write(numbers.clone(), &[4, 6])?[18..24], [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        // Halves (0, 1) and (2, 3) become the pairs (0, 2) and (1, 3).
        let first_of_rows: Vec<f32> = pairs.write(numbers.clone(), &[4, 6])?.into_iter().step_by(6).collect();
        assert_eq!(first_of_rows, [0.0, 12.0, 6.0, 18.0]);
        assert!(Layout::RotaryPairs { heads: 3 }.read(numbers, &[4, 6]).is_err());
        Ok(())
    }
}
