//! Weights into [`Params`]: a checkpoint's, zeros, or none at all, and an adapter's beside them.

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

/// Where a loader's weights come from.
pub(super) enum Contents {
    /// A checkpoint.
    Stored(Checkpoint),
    /// Nowhere: they are 0.
    Zeros,
    /// Nowhere, and they have no numbers. They may lie here: then config.json is held to the shapes that they have.
    Nothing(Source),
}

/// What the head is called in every checkpoint.
const HEAD: &str = "lm_head.weight";

/// Reads weights from a checkpoint into [`Params`], one tensor at a time.
pub struct Loader {
    pub(super) contents: Contents,
    /// What the weights' files say of them, where they are there and not read.
    headers: Option<Checkpoint>,
    /// Bytes of zeros so far.
    zeros: u64,
    pub(super) params: Params,
    /// How many numbers each weight has.
    pub(super) sizes: Vec<usize>,
    aliases: &'static [(&'static str, &'static str)],
    /// The checkpoint's tensors that were asked for.
    seen: RefCell<BTreeSet<String>>,
    /// The head has a weight of its own, whatever the config says.
    pub(super) untied: bool,
    dtype: DType,
    pub(super) adapter: Option<Adapter>,
    /// The adapter's, where it is stored and its numbers are wanted.
    adapter_tensors: Option<Checkpoint>,
    /// The segment whose weights come now, and what their names begin with.
    current: (Segment, String),
    /// Where each weight stands.
    pub(super) places: Vec<Place>,
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
        let (aliases, seen, untied) = (&[][..], RefCell::default(), false);
        // If they cannot be opened they are still to come, or whoever reads them says what is wrong.
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
            seen,
            untied,
            dtype,
            adapter,
            adapter_tensors,
            current: (Segment::Stem, String::new()),
            places: Vec::new(),
            linears,
        })
    }

    /// What is stored, whether it is read or not.
    fn stored(&self) -> Option<&Checkpoint> {
        match &self.contents {
            Contents::Stored(checkpoint) => Some(checkpoint),
            _ => self.headers.as_ref(),
        }
    }

    /// A weight of zeros, if there is memory for it beside those that there are.
    fn made(&mut self, shape: &[usize], dtype: DType) -> Result<Array> {
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

    /// The weights that come next stand in `segment`, and their names begin with `prefix`.
    pub(super) fn begin(&mut self, segment: Segment, prefix: &str) {
        self.current = (segment, prefix.into());
    }

    fn note(&mut self, id: ParamId, name: &str, (segment, prefix): (Segment, &str)) -> ParamId {
        let name = name.strip_prefix(prefix).unwrap_or(name).into();
        self.places.push(Place { id, segment, name });
        id
    }

    /// Other spellings of a name's beginning that checkpoints use.
    pub(super) fn set_aliases(&mut self, aliases: &'static [(&'static str, &'static str)]) {
        self.aliases = aliases;
    }

    /// Reads the weight called `name`, which must have `shape`.
    pub(super) fn weight(&mut self, name: &str, shape: &[usize]) -> Result<ParamId> {
        self.weight_from(name, name, shape)
    }

    /// Reads what embeds tokens. Of a tied pair either may be the one that is stored, as transformers has it.
    pub(super) fn embedding(&mut self, name: &str, shape: &[usize], tied: bool) -> Result<ParamId> {
        let is_only = |stored: &Checkpoint| !stored.has(&self.spelled(stored, name)) && stored.has(HEAD);
        let only_the_head = self.stored().is_some_and(is_only);
        self.weight_from(name, if tied && only_the_head { HEAD } else { name }, shape)
    }

    /// Reads the tensor `stored` as the weight called `name`.
    fn weight_from(&mut self, name: &str, stored: &str, shape: &[usize]) -> Result<ParamId> {
        let size = count(shape)?;
        if let Some(headers) = &self.headers {
            headers.check(&self.spelled(headers, stored), shape)?;
        }
        let tensor = match &self.contents {
            Contents::Stored(checkpoint) => {
                let spelled = self.spelled(checkpoint, stored);
                let tensor = checkpoint.read(&spelled, shape, self.dtype)?;
                self.seen.borrow_mut().insert(spelled);
                tensor
            }
            Contents::Zeros => self.made(shape, self.dtype)?,
            Contents::Nothing(_) => Array::empty(self.dtype)?,
        };
        self.sizes.push(size);
        let id = self.params.insert(name, tensor)?;
        let (segment, prefix) = self.current.clone();
        Ok(self.note(id, name, (segment, &prefix)))
    }

    /// The name under which the checkpoint has a weight.
    fn spelled(&self, checkpoint: &Checkpoint, name: &str) -> String {
        let others = self.aliases.iter().filter_map(|(ours, theirs)| Some(format!("{theirs}{}", name.strip_prefix(ours)?)));
        others.into_iter().find(|other| !checkpoint.has(name) && checkpoint.has(other)).unwrap_or(name.into())
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
            (_, None) => self.made(shape, DType::F32)?,
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
        Ok(self.note(id, name, (segment, &prefix)))
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
        let seen = self.seen.borrow();
        let unused: Vec<&str> = checkpoint
            .tensor_names()
            .filter(|name| !seen.contains(*name) && !name.ends_with("rotary_emb.inv_freq"))
            .collect();
        if let Some(first) = unused.first() {
            tracing::warn!(
                "{} tensors of the checkpoint are not used, e.g. {first}; does config.json belong to it?",
                unused.len()
            );
        }
    }

    /// The vocabulary projection: the embedding again where they are tied.
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

    /// Whether a head that is to be the embedding is stored beside it with other numbers: transformers (5) does not tie such a pair,
    /// whatever the config says, nor do we. Pickles have both where they are one.
    fn has_another_head(&self, embedding: ParamId, shape: &[usize]) -> Result<bool> {
        let is_read = matches!(self.contents, Contents::Stored(_));
        // Of a GGUF file the config was made by what it has.
        let is_made = matches!(&self.contents, Contents::Nothing(Source::Single(..)));
        let Some(checkpoint) = self.stored().filter(|_| !is_made) else { return Ok(false) };
        let name = self.params.ids().find(|(id, _)| *id == embedding).map_or("", |(_, name)| name);
        let embedding = self.spelled(checkpoint, name);
        if !checkpoint.has(HEAD) || !checkpoint.has(&embedding) {
            return Ok(false);
        }
        if checkpoint.are_same([HEAD, &embedding], shape, self.dtype)? {
            self.seen.borrow_mut().insert(HEAD.into());
            return Ok(false);
        }
        if is_read {
            tracing::warn!(
                "config.json says that the head is the embedding (tie_word_embeddings), but {HEAD} and {embedding} hold \
                 different numbers; they are used as two weights, as in transformers, and a config that zotune writes says so"
            );
        }
        Ok(true)
    }
}

/// How many numbers a weight has.
fn count(shape: &[usize]) -> Result<usize> {
    let count = shape.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim));
    count.with_context(|| format!("config.json asks for a weight of the shape {shape:?}, too large for any machine"))
}
