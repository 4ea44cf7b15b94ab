//! TODO

/// What the file has otherwise than the checkpoint that it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// The rows of each head: rotary pairs lie side by side, where transformers has all first halves before all second ones.
    Interleaved {
        /// How many heads there are.
        heads: usize,
    },
    /// A norm's weight is larger by one.
    OneMore,
}

impl Undo {
    /// Rows of `width` numbers back into transformers' order; the norms are done before they are narrowed.
    pub fn rows<H: Copy>(self, numbers: &mut [H], width: usize) {
        let Undo::Interleaved { heads } = self else { return };
        let head = numbers.len() / heads;
        let half = head / width / 2;
        let mut whole = Vec::with_capacity(head);
        for rows in numbers.chunks_mut(head) {
            whole.clear();
            whole.extend_from_slice(rows);
            for (i, row) in whole.chunks(width).enumerate() {
                rows[(i % 2 * half + i / 2) * width..][..width].copy_from_slice(row);
            }
        }
    }
}
