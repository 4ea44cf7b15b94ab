//! Weight tensors: a buffer with a shape.

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};

use super::buffer::{Buffer, View};

/// A buffer with a shape, in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    buffer: Buffer,
}

impl Array {
    /// Fails if the shape does not have the buffer's number of elements.
    pub fn new(shape: &[usize], buffer: Buffer) -> Result<Self> {
        if shape.iter().product::<usize>() != buffer.len() {
            bail!("{} numbers do not make the shape {shape:?}", buffer.len());
        }
        Ok(Array { shape: shape.into(), buffer })
    }

    /// An empty placeholder for a weight that is not read.
    pub fn empty(dtype: DType) -> Result<Self> {
        Self::new(&[0], Buffer::zeros(dtype, 0)?)
    }

    /// A copy of a candle tensor in f32, bf16 or f16. Fails for other dtypes.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        let flat = tensor.flatten_all()?;
        let buffer = match tensor.dtype() {
            DType::F32 => Buffer::F32(flat.to_vec1()?),
            DType::BF16 => Buffer::Bf16(flat.to_vec1()?),
            DType::F16 => Buffer::F16(flat.to_vec1()?),
            other => bail!("weights are stored in f32, f16 or bf16, not in {other:?}"),
        };
        Self::new(tensor.dims(), buffer)
    }

    /// A copy as a candle tensor on the CPU.
    pub fn tensor(&self) -> Result<Tensor> {
        let (shape, device) = (self.shape.as_slice(), &Device::Cpu);
        Ok(match self.view() {
            View::F32(numbers) => Tensor::from_slice(numbers, shape, device)?,
            View::Bf16(numbers) => Tensor::from_slice(numbers, shape, device)?,
            View::F16(numbers) => Tensor::from_slice(numbers, shape, device)?,
        })
    }

    /// Dimensions, the slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// [rows, columns]. Fails if the array is not a matrix.
    pub fn dims2(&self) -> candle_core::Result<(usize, usize)> {
        match self.shape[..] {
            [rows, columns] => Ok((rows, columns)),
            _ => candle_core::bail!("a weight of the shape {:?} is not a matrix", self.shape),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Storage precision.
    pub fn dtype(&self) -> DType {
        self.buffer.dtype()
    }

    /// The elements as bytes, in native byte order.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    /// The elements.
    pub fn view(&self) -> View<'_> {
        self.buffer.view()
    }

    /// The buffer without the shape.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// The buffer for writing; its length must stay.
    pub(crate) fn buffer_mut(&mut self) -> &mut Buffer {
        &mut self.buffer
    }
}
