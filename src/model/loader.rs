//! Weights into [`Params`]: a checkpoint's, zeros, or none at all, and an adapter's beside them.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use super::adapter::{self, Adapter, Kind};
use super::checkpoint::Checkpoint;
use super::head::Head;
use super::linear::{Linear, LowRank};
use super::ops::Heads;
use super::packed::Prefix;
use crate::params::{ParamId, Params};

/// Where a loader's weights come from.
pub(super) enum Contents {
    /// A checkpoint.
    Stored(Checkpoint),
    /// Nowhere: they are 0.
    Zeros,
    /// Nowhere, and they have no numbers.
    Nothing,
}

/// Reads weights from a checkpoint into [`Params`], one tensor at a time.
pub struct Loader {
    pub(super) contents: Contents,
    pub(super) params: Params,
    /// How many numbers each weight has.
    pub(super) sizes: Vec<usize>,
    aliases: &'static [(&'static str, &'static str)],
    dtype: DType,
    pub(super) adapter: Option<Adapter>,
    /// The adapter's, where it is stored and its numbers are wanted.
    adapter_tensors: Option<Checkpoint>,
    /// The linear layers, by name.
    pub(super) linears: Vec<(String, Linear)>,
}

impl Loader {
    pub(super) fn new(contents: Contents, dtype: DType, adapter: Option<Adapter>) -> Result<Self> {
        let adapter_tensors = match (&contents, &adapter) {
            (Contents::Stored(_), Some(adapter)) => adapter.tensors()?,
            _ => None,
        };
        let (params, sizes, linears) = (Params::new(dtype), Vec::new(), Vec::new());
        Ok(Loader { contents, params, sizes, aliases: &[], dtype, adapter, adapter_tensors, linears })
    }

    /// Other spellings of a name's beginning that checkpoints use.
    pub(super) fn set_aliases(&mut self, aliases: &'static [(&'static str, &'static str)]) {
        self.aliases = aliases;
    }

    /// Reads the weight called `name`, which must have `shape`.
    pub(super) fn weight(&mut self, name: &str, shape: &[usize]) -> Result<ParamId> {
        let tensor = match &self.contents {
            Contents::Stored(checkpoint) => {
                let spelled = self
                    .aliases
                    .iter()
                    .filter_map(|(ours, theirs)| Some(format!("{theirs}{}", name.strip_prefix(ours)?)))
                    .find(|other| !checkpoint.has(name) && checkpoint.has(other));
                checkpoint.read(spelled.as_deref().unwrap_or(name), shape, self.dtype)?
            }
            Contents::Zeros => Tensor::zeros(shape, self.dtype, &Device::Cpu)?,
            Contents::Nothing => Tensor::zeros(0, self.dtype, &Device::Cpu)?,
        };
        self.sizes.push(shape.iter().product());
        self.params.insert(name, tensor)
    }

    /// Reads `name.weight` [outer, inner] and, if there is to be one, `name.bias` [outer].
    pub(super) fn linear(&mut self, name: &str, outer: usize, inner: usize, bias: bool) -> Result<Linear> {
        let weight = self.weight(&format!("{name}.weight"), &[outer, inner])?;
        let bias = if bias { Some(self.weight(&format!("{name}.bias"), &[outer])?) } else { None };
        let linear = Linear { weight, bias, outer, low_rank: self.low_rank(name, outer, inner)? };
        self.linears.push((name.to_string(), linear));
        Ok(linear)
    }

    /// What the adapter adds to the linear layer called `name`.
    fn low_rank(&mut self, name: &str, outer: usize, inner: usize) -> Result<Option<LowRank>> {
        let Some((r, scale)) = self.adapter.as_ref().and_then(|adapter| adapter.rank(name)) else { return Ok(None) };
        let a = self.adapter_weight(&format!("{name}.lora_A.weight"), &[r, inner])?;
        let b = self.adapter_weight(&format!("{name}.lora_B.weight"), &[outer, r])?;
        Ok(Some(LowRank { a, b, scale }))
    }

    /// The prefix of an adapter that has one.
    pub(super) fn prefix(&mut self, heads: Heads, blocks: usize) -> Result<Option<Prefix>> {
        let Some(Kind::Prefix(tokens)) = self.adapter.as_ref().map(Adapter::kind) else { return Ok(None) };
        let (tokens, width) = (*tokens, blocks * 2 * heads.keys * heads.dim);
        Ok(Some(Prefix { embeddings: self.adapter_weight(adapter::PROMPT_EMBEDDINGS, &[tokens, width])?, tokens }))
    }

    fn adapter_weight(&mut self, name: &str, shape: &[usize]) -> Result<ParamId> {
        self.adapter.as_ref().map_or(Ok(()), |adapter| adapter.check_shape(name, shape))?;
        let tensor = match (&self.contents, &self.adapter_tensors) {
            (Contents::Nothing, _) => Tensor::zeros(0, DType::F32, &Device::Cpu)?,
            (_, None) => Tensor::zeros(shape, DType::F32, &Device::Cpu)?,
            (_, Some(stored)) => {
                let known_as = Adapter::stored_name(name).filter(|known_as| stored.has(known_as));
                stored.read(known_as.as_deref().unwrap_or(name), shape, DType::F32)?
            }
        };
        self.sizes.push(shape.iter().product());
        self.params.insert_adapter(name, tensor)
    }

    /// Refuses an adapter that asks for layers which are not there.
    pub(super) fn check_adapter(&self) -> Result<()> {
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let layers: Vec<&str> = self.linears.iter().map(|(name, _)| name.as_str()).collect();
        adapter.check_used(&layers, |name| self.params.id(name).is_some())
    }

    /// Says so when the checkpoint holds more than the config asks for: layers left out by mistake, another model's head.
    pub(super) fn warn_of_unused(&self) {
        let Contents::Stored(checkpoint) = &self.contents else { return };
        let unused: Vec<&str> = checkpoint
            .tensor_names()
            .filter(|name| !self.is_read(name) && !name.ends_with("rotary_emb.inv_freq") && *name != "lm_head.weight")
            .collect();
        if let Some(first) = unused.first() {
            tracing::warn!(
                "{} tensors of the checkpoint are not used, e.g. {first}; does config.json belong to it?",
                unused.len()
            );
        }
    }

    fn is_read(&self, stored: &str) -> bool {
        let ours =
            self.aliases.iter().map(|(ours, theirs)| format!("{ours}{}", stored.strip_prefix(theirs).unwrap_or(stored)));
        self.params.id(stored).is_some() || ours.into_iter().any(|name| self.params.id(&name).is_some())
    }

    /// The vocabulary projection: the embedding again where they are tied.
    pub(super) fn head(&mut self, tied: bool, embedding: ParamId, shape: &[usize], cap: Option<f32>) -> Result<Head> {
        let weight = if tied { embedding } else { self.weight("lm_head.weight", shape)? };
        Ok(Head { projection: Linear { weight, bias: None, outer: shape[0], low_rank: None }, cap })
    }
}
