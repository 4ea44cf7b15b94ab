//! The kinds of adapters, and their knobs.

/// What it adds to the model.
#[derive(Clone, Debug, PartialEq)]
pub enum AdapterKind {
    /// s x A^T B^T to linear layers (Hu et al. 2021, arXiv 2106.09685).
    Lora(Lora),
    /// So many tokens' keys and values to every block (Li and Liang 2021, arXiv 2101.00190).
    Prefix(usize),
}

/// LoRA's knobs.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The rank: rows of A, columns of B.
    pub r: usize,
    /// alpha; s = alpha / r.
    pub alpha: f64,
    /// s = alpha / sqrt(r) instead (rsLoRA).
    pub by_root: bool,
    /// The layers that it adapts, by the last parts of their names; or `all-linear`.
    pub targets: Vec<String>,
}

impl AdapterKind {
    /// The smoothing radius that suits it: MeZO's (arXiv 2305.17333, appendix); its numbers are larger than a model's.
    pub fn zo_eps(&self) -> f64 {
        match self {
            AdapterKind::Lora(_) => 1e-2,
            AdapterKind::Prefix(_) => 1e-1,
        }
    }

    /// The learning rate that it bears, as a multiple of what as many of a model's own weights do, where its gradient is
    /// `estimated` and where it is not (docs/results.md).
    pub fn rate(&self, estimated: bool) -> f64 {
        match (self, estimated) {
            (AdapterKind::Lora(_), true) => 1.0,
            (AdapterKind::Lora(_), false) => 10.0,
            (AdapterKind::Prefix(_), true) => 40.0,
            (AdapterKind::Prefix(_), false) => 300.0,
        }
    }
}

impl Lora {
    /// s
    pub fn scale(&self) -> f32 {
        let r = self.r as f64;
        (self.alpha / if self.by_root { r.sqrt() } else { r }) as f32
    }

    /// Whether it adapts the linear layer called `name`.
    pub(super) fn targets(&self, name: &str) -> bool {
        let is = |target: &String| name == target || name.strip_suffix(target).is_some_and(|front| front.ends_with('.'));
        self.targets.iter().any(|target| target == "all-linear" || is(target))
    }
}

pub(super) fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
