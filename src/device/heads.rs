//! Shape and scaling of attention heads.

use serde::Serialize;

/// Counts and width of attention heads.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key heads, and value heads; `queries / keys` query heads share one.
    pub keys: usize,
    /// Width of a head.
    pub dim: usize,
}

impl Heads {
    /// Width of a row of q, k and v side by side: (queries + 2 keys) * dim.
    pub fn width(self) -> usize {
        (self.queries + 2 * self.keys) * self.dim
    }
}

/// Transformation of query-key products before the softmax.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scores {
    /// Factor on the products, applied first.
    pub scale: f32,
    /// Soft cap, cap tanh(x / cap), applied second.
    pub cap: Option<f32>,
}

impl Scores {
    /// Scale 1 / sqrt(dim), no cap.
    pub fn of(heads: Heads) -> Self {
        Scores { scale: 1.0 / (heads.dim as f32).sqrt(), cap: None }
    }
}
