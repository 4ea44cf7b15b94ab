//! How attention's heads are made.

use serde::Serialize;

/// How many heads there are, and how wide.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Heads {
    /// Of queries.
    pub queries: usize,
    /// Of keys, and of values; `queries / keys` query heads share one.
    pub keys: usize,
    /// Numbers in a head.
    pub dim: usize,
}

impl Heads {
    /// Numbers of a token: its queries, keys and values.
    pub fn width(self) -> usize {
        (self.queries + 2 * self.keys) * self.dim
    }
}

/// What the product of a query and a key becomes before the softmax.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scores {
    /// Products are multiplied by it.
    pub scale: f32,
    /// Then they go through cap tanh(x / cap).
    pub cap: Option<f32>,
}

impl Scores {
    /// One over the square root of a head's width, and no cap.
    pub fn of(heads: Heads) -> Self {
        Scores { scale: 1.0 / (heads.dim as f32).sqrt(), cap: None }
    }
}
