//! Loads weights into [`Params`]: from a checkpoint, as zeros or without data, and an adapter's with them.

use std::cell::RefCell;
use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use candle_core::DType;

use super::head::Head;
use super::linear::{Linear, LowRank};
use super::packed::Prefix;
use super::segment::{Place, Segment};
use crate::base::{Source, memory};
use crate::device::{Array, Buffer, Heads};
use crate::formats::Checkpoint;
use crate::model::adapter::{Adapter, AdapterKind, stored};
use crate::params::{ParamId, Params};

/// The source of a loader's weights.
pub(super) enum Contents {
    /// A checkpoint.
    Stored(Checkpoint),
    /// No source: the weights are zeros.
    Zeros,
    /// No data: the weights are empty tensors. If the source has weight files, their shapes are checked.
    Nothing(Source),
}

/// The name of the head in every checkpoint.
const HEAD: &str = "lm_head.weight";

/// Loads weights into [`Params`], one tensor at a time.
pub struct Loader {
    pub(super) contents: Contents,
    /// The headers of weight files that are checked but not read.
    headers: Option<Checkpoint>,
    /// Bytes of zeros allocated so far.
    zeros: u64,
    pub(super) params: Params,
    /// The number of elements of each weight.
    pub(super) sizes: Vec<usize>,
    aliases: &'static [(&'static str, &'static str)],
    /// The checkpoint's tensors that were requested.
    requested: RefCell<BTreeSet<String>>,
    /// Whether the head has its own weight although config.json ties it.
    pub(super) untied: bool,
    dtype: DType,
    pub(super) adapter: Option<Adapter>,
    /// The tensors of a stored adapter, if they are read.
    adapter_tensors: Option<Checkpoint>,
    /// The segment being loaded, and the prefix of its names.
    current: (Segment, String),
    /// The segment and local name of each weight.
    pub(super) places: Vec<Place>,
    /// The linear layers by name.
    pub(super) linears: Vec<(String, Linear)>,
}

impl Loader {
    pub(super) fn new(contents: Contents, dtype: DType, adapter: Option<Adapter>) -> Result<Self> {
        let adapter_tensors = match (&contents, &adapter) {
            (Contents::Stored(_), Some(adapter)) => adapter.tensors()?,
            _ => None,
        };
        let (params, sizes, linears) = (Params::new(dtype), Vec::new(), Vec::new());
        let (aliases, requested, untied) = (&[][..], RefCell::default(), false);
        // If they cannot be opened, they are not downloaded yet, or the later read reports the error.
        let headers = match &contents {
            Contents::Nothing(source) => Checkpoint::open(source).ok(),
            _ => None,
        };
        let zeros = 0;
        Ok(Loader {
            contents,
            headers,
            zeros,
            params,
            sizes,
            aliases,
            requested,
            untied,
            dtype,
            adapter,
            adapter_tensors,
            current: (Segment::Stem, String::new()),
            places: Vec::new(),
            linears,
        })
    }

    /// The checkpoint, read or only checked.
    fn stored(&self) -> Option<&Checkpoint> {
        match &self.contents {
            Contents::Stored(checkpoint) => Some(checkpoint),
            _ => self.headers.as_ref(),
        }
    }

    /// A weight of zeros. Fails if all of them exceed the available memory.
    fn zero_weight(&mut self, shape: &[usize], dtype: DType) -> Result<Array> {
        self.zeros = self.zeros.saturating_add(count(shape)?.saturating_mul(dtype.size_in_bytes()) as u64);
        if let Some(free) = memory::available_bytes().filter(|free| self.zeros > *free) {
            bail!(
                "the new weights beside the model need {}, but only {} are free",
                memory::human(self.zeros),
                memory::human(free)
            );
        }
        Array::new(shape, Buffer::zeros(dtype, count(shape)?)?)
    }

    /// Starts a segment; the names of its weights begin with `prefix`.
    pub(super) fn begin(&mut self, segment: Segment, prefix: &str) {
        self.current = (segment, prefix.into());
    }

    fn record_place(&mut self, id: ParamId, name: &str, (segment, prefix): (Segment, &str)) -> ParamId {
        let name = name.strip_prefix(prefix).unwrap_or(name).into();
        self.places.push(Place { id, segment, name });
        id
    }

    /// Alternative prefixes of names in checkpoints.
    pub(super) fn set_aliases(&mut self, aliases: &'static [(&'static str, &'static str)]) {
        self.aliases = aliases;
    }

    /// Loads the weight `name` of this shape.
    pub(super) fn weight(&mut self, name: &str, shape: &[usize]) -> Result<ParamId> {
        self.weight_from(name, name, shape)
    }

    /// Loads the embedding. Of a tied pair either tensor may be stored, as in transformers.
    pub(super) fn embedding(&mut self, name: &str, shape: &[usize], tied: bool) -> Result<ParamId> {
        let is_only = |stored: &Checkpoint| !stored.has(&self.checkpoint_name(stored, name)) && stored.has(HEAD);
        let only_the_head = self.stored().is_some_and(is_only);
        self.weight_from(name, if tied && only_the_head { HEAD } else { name }, shape)
    }

    /// Loads the tensor `stored` as the weight `name`.
    fn weight_from(&mut self, name: &str, stored: &str, shape: &[usize]) -> Result<ParamId> {
        let size = count(shape)?;
        if let Some(headers) = &self.headers {
            headers.check(&self.checkpoint_name(headers, stored), shape)?;
        }
        let tensor = match &self.contents {
            Contents::Stored(checkpoint) => {
                let spelled = self.checkpoint_name(checkpoint, stored);
                let tensor = checkpoint.read(&spelled, shape, self.dtype)?;
                self.requested.borrow_mut().insert(spelled);
                tensor
            }
            Contents::Zeros => self.zero_weight(shape, self.dtype)?,
            Contents::Nothing(_) => Array::empty(self.dtype)?,
        };
        self.sizes.push(size);
        let id = self.params.insert(name, tensor)?;
        let (segment, prefix) = self.current.clone();
        Ok(self.record_place(id, name, (segment, &prefix)))
    }

    /// The name of a weight in the checkpoint.
    fn checkpoint_name(&self, checkpoint: &Checkpoint, name: &str) -> String {
        let others = self.aliases.iter().filter_map(|(ours, theirs)| Some(format!("{theirs}{}", name.strip_prefix(ours)?)));
        others.into_iter().find(|other| !checkpoint.has(name) && checkpoint.has(other)).unwrap_or(name.into())
    }

    /// Loads `name.weight` [outer, inner] and, with `bias`, `name.bias` [outer].
    pub(super) fn linear(&mut self, name: &str, outer: usize, inner: usize, bias: bool) -> Result<Linear> {
        let weight = self.weight(&format!("{name}.weight"), &[outer, inner])?;
        let bias = if bias { Some(self.weight(&format!("{name}.bias"), &[outer])?) } else { None };
        let linear = Linear { weight, bias, outer, low_rank: self.low_rank(name, outer, inner)? };
        self.linears.push((name.to_string(), linear));
        Ok(linear)
    }

    /// The adapter of the linear layer `name`, if it has one.
    fn low_rank(&mut self, name: &str, outer: usize, inner: usize) -> Result<Option<LowRank>> {
        let Some((r, scale)) = self.adapter.as_ref().and_then(|adapter| adapter.rank(name)) else { return Ok(None) };
        let a = self.adapter_weight(&format!("{name}.lora_A.weight"), &[r, inner])?;
        let b = self.adapter_weight(&format!("{name}.lora_B.weight"), &[outer, r])?;
        Ok(Some(LowRank { a, b, scale }))
    }

    /// The prefix, if the adapter is one.
    pub(super) fn prefix(&mut self, heads: Heads, blocks: usize) -> Result<Option<Prefix>> {
        let Some(AdapterKind::Prefix(tokens)) = self.adapter.as_ref().map(Adapter::kind) else { return Ok(None) };
        let (tokens, width) = (*tokens, count(&[blocks, 2, heads.keys, heads.dim])?);
        self.adapter.as_ref().map_or(Ok(()), |adapter| adapter.check_prefix(heads, blocks))?;
        Ok(Some(Prefix { embeddings: self.adapter_weight(stored::PROMPT_EMBEDDINGS, &[tokens, width])?, tokens }))
    }

    fn adapter_weight(&mut self, name: &str, shape: &[usize]) -> Result<ParamId> {
        self.adapter.as_ref().map_or(Ok(()), |adapter| adapter.check_shape(name, shape))?;
        let size = count(shape)?;
        let tensor = match (&self.contents, &self.adapter_tensors) {
            (Contents::Nothing(_), _) => Array::empty(DType::F32)?,
            (_, None) => self.zero_weight(shape, DType::F32)?,
            (_, Some(stored)) => {
                let known_as = Adapter::stored_name(name).filter(|known_as| stored.has(known_as));
                stored.read(known_as.as_deref().unwrap_or(name), shape, DType::F32)?
            }
        };
        self.sizes.push(size);
        let id = self.params.insert_adapter(name, tensor)?;
        // Every block reads a prefix.
        let (segment, prefix) = match name {
            stored::PROMPT_EMBEDDINGS => (Segment::Stem, String::new()),
            _ => self.current.clone(),
        };
        Ok(self.record_place(id, name, (segment, &prefix)))
    }

    /// Fails if the adapter adapts layers that the model lacks.
    pub(super) fn check_adapter(&self) -> Result<()> {
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let layers: Vec<&str> = self.linears.iter().map(|(name, _)| name.as_str()).collect();
        adapter.check_used(&layers, |name| self.params.id(name).is_some())
    }

    /// Warns if the checkpoint has more tensors than the config uses: missing layers, or another model's config.
    pub(super) fn warn_of_unused(&self) {
        let Contents::Stored(checkpoint) = &self.contents else { return };
        let requested = self.requested.borrow();
        let unused: Vec<&str> = checkpoint
            .tensor_names()
            .filter(|name| !requested.contains(*name) && !name.ends_with("rotary_emb.inv_freq"))
            .collect();
        if let Some(first) = unused.first() {
            tracing::warn!(
                "{} tensors of the checkpoint are not used, e.g. {first}; does config.json belong to it?",
                unused.len()
            );
        }
    }

    /// Loads the vocabulary projection; the embedding if they are tied.
    pub(super) fn head(&mut self, tied: bool, embedding: ParamId, shape: &[usize], cap: Option<f32>) -> Result<Head> {
        self.untied = tied && self.has_another_head(embedding, shape)?;
        if let Contents::Stored(checkpoint) = &self.contents
            && !tied
            && !checkpoint.has(HEAD)
        {
            bail!(
                "the checkpoint has no {HEAD}, but config.json says that the head is a separate weight; if it is the \
                 embedding, write there: \"tie_word_embeddings\": true"
            );
        }
        let weight = if tied && !self.untied { embedding } else { self.weight(HEAD, shape)? };
        Ok(Head { projection: Linear { weight, bias: None, outer: shape[0], low_rank: None }, cap })
    }

    /// Whether a tied head is stored with other numbers than the embedding: transformers 5 then unties them. Pickles
    /// store both even if they are equal.
    fn has_another_head(&self, embedding: ParamId, shape: &[usize]) -> Result<bool> {
        let is_read = matches!(self.contents, Contents::Stored(_));
        // The config of a GGUF file is derived from its tensors.
        let is_made = matches!(&self.contents, Contents::Nothing(Source::Single(..)));
        let Some(checkpoint) = self.stored().filter(|_| !is_made) else { return Ok(false) };
        let name = self.params.ids().find(|(id, _)| *id == embedding).map_or("", |(_, name)| name);
        let embedding = self.checkpoint_name(checkpoint, name);
        if !checkpoint.has(HEAD) || !checkpoint.has(&embedding) {
            return Ok(false);
        }
        if checkpoint.are_same([HEAD, &embedding], shape, self.dtype)? {
            self.requested.borrow_mut().insert(HEAD.into());
            return Ok(false);
        }
        if is_read {
            tracing::warn!(
                "config.json ties the head to the embedding (tie_word_embeddings), but {HEAD} and {embedding} have different numbers; \
                 both weights are used, as in transformers, and the config of the saved model says so"
            );
        }
        Ok(true)
    }
}

/// The number of elements of a weight.
fn count(shape: &[usize]) -> Result<usize> {
    let count = shape.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim));
    count.with_context(|| format!("config.json asks for a weight of the shape {shape:?}, too large for any machine"))
}
