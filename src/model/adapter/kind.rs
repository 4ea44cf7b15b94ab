//! The kinds of adapters and their settings.

/// What an adapter adds to the model.
#[derive(Clone, Debug, PartialEq)]
pub enum AdapterKind {
    /// Adds s x A^T B^T to linear layers (Hu et al. 2021, arXiv 2106.09685).
    Lora(Lora),
    /// Adds the keys and values of so many virtual tokens to every block (Li and Liang 2021, arXiv 2101.00190).
    Prefix(usize),
}

/// The settings of LoRA.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The rank: A is [r, inner], B [outer, r].
    pub r: usize,
    /// alpha; the scale is s = alpha / r.
    pub alpha: f64,
    /// s = alpha / sqrt(r) instead (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732).
    pub by_root: bool,
    /// The adapted layers, by the last parts of their names; or `all-linear`.
    pub targets: Vec<String>,
}

impl AdapterKind {
    /// The default smoothing radius: MeZO's (arXiv 2305.17333, appendix). Adapters have larger weights than models.
    pub fn zo_eps(&self) -> f64 {
        match self {
            AdapterKind::Lora(_) => 1e-2,
            AdapterKind::Prefix(_) => 1e-1,
        }
    }

    /// The default learning rate, relative to that of as many of a model's own weights, with `estimated` or first-order
    /// gradients (docs/results.md). A step of estimates whose length does not follow the gradient's (`normalised`) needs less: the
    /// gradient by an adapter is smaller than that by a model's own weights.
    pub fn rate(&self, estimated: bool, normalised: bool) -> f64 {
        match (self, estimated, normalised) {
            (AdapterKind::Lora(_), true, true) => 1.0,
            (AdapterKind::Lora(_), ..) => 10.0,
            (AdapterKind::Prefix(_), true, true) => 10.0,
            (AdapterKind::Prefix(_), true, false) => 1000.0,
            (AdapterKind::Prefix(_), false, _) => 300.0,
        }
    }
}

impl Lora {
    /// The scale s.
    pub fn scale(&self) -> f32 {
        let r = self.r as f64;
        (self.alpha / if self.by_root { r.sqrt() } else { r }) as f32
    }

    /// Whether it adapts the linear layer `name`.
    pub(super) fn targets(&self, name: &str) -> bool {
        let is = |target: &String| name == target || name.strip_suffix(target).is_some_and(|front| front.ends_with('.'));
        self.targets.iter().any(|target| target == "all-linear" || is(target))
    }
}

pub(super) fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
