//! Language models over [`Params`]: from a folder to hidden states and log-probabilities of packed batches.
//!
//! A model holds handles ([`ParamId`]) and reads the weights through [`Weights`], which only [`Params::settle`]
//! returns, so it never reads weights with pending moves.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::DType;
use serde_json::Value;

use super::architecture::{Architecture, Shape};
use super::kinds;
use super::linear::Linear;
use super::loader::{Contents, Loader};
use super::packed::{Packed, Prefix, PrefixMode};
use super::segment::{Place, Segment};
use crate::base::{Source, files};
use crate::data::Batch;
use crate::data::tokenizer::Tokenizer;
use crate::device::Activations;
use crate::direction::Term;
use crate::formats::Checkpoint;
use crate::model::adapter::stored::CONFIG as ADAPTER_CONFIG;
use crate::model::adapter::{Adapter, AdapterKind};
use crate::params::{ParamId, Params, Role, Weights};

/// A model and the files it was opened from.
pub struct Model {
    pub(super) architecture: Box<dyn Architecture>,
    source: Source,
    config: Value,
    weight_files: Vec<String>,
    pub(super) adapter: Option<Adapter>,
    pub(super) prefix: Option<Prefix>,
    /// The linear layers by name, with their adapters.
    pub(super) linears: Vec<(String, Linear)>,
    /// The segment and local name of each weight.
    pub(super) places: Vec<Place>,
}

impl Model {
    /// Opens a folder in Hugging Face layout; returns with it the weights in the precision `dtype`.
    pub fn open(source: &Source, dtype: DType) -> Result<(Self, Params)> {
        Self::open_adapted(source, dtype, None)
    }

    /// The same with an adapter, whose weights are f32; a new adapter's are 0.
    pub fn open_adapted(source: &Source, dtype: DType, adapter: Option<Adapter>) -> Result<(Self, Params)> {
        let contents = Contents::Stored(Checkpoint::open(source)?);
        let (model, loader) = Self::load(source, kinds::read(source)?, contents, dtype, adapter)?;
        kinds::warn_of_code(&model.config);
        loader.warn_of_unused();
        Ok((model, loader.params))
    }

    /// A model of the same widths with `blocks` blocks, random weights and a new adapter of the same kind, for
    /// measurements before the weights are read.
    pub fn stand_in(&self, dtype: DType, blocks: usize) -> Result<(Self, Params)> {
        let (mut config, place) = (self.config.clone(), self.source.place("config.json"));
        config["num_hidden_layers"] = blocks.into();
        if let Some(kinds) = config.get_mut("layer_types").and_then(Value::as_array_mut) {
            kinds.truncate(blocks);
        }
        let adapter = self.adapter.as_ref().map(Adapter::stand_in);
        let (model, Loader { mut params, .. }) = Self::load(&self.source, (config, place), Contents::Zeros, dtype, adapter)?;
        params.perturb(&[Term::gaussian(0, 0.02)]);
        params.settle()?;
        Ok((model, params))
    }

    /// Opens the model without its weights, from config.json: [`Params`] of empty tensors, and the number of elements
    /// each would have. If weight files are present, shapes and the tying of the head are checked against them.
    pub fn open_meta(source: &Source, dtype: DType, adapter: Option<Adapter>) -> Result<(Self, Params, Vec<usize>)> {
        let contents = Contents::Nothing(source.clone());
        let (model, loader) = Self::load(source, kinds::read(source)?, contents, dtype, adapter)?;
        Ok((model, loader.params, loader.sizes))
    }

    fn load(
        source: &Source,
        (mut config, place): (Value, String),
        contents: Contents,
        dtype: DType,
        adapter: Option<Adapter>,
    ) -> Result<(Self, Loader)> {
        let kind = kinds::kind_of(&config, &place)?;
        let mut loader = Loader::new(contents, dtype, adapter)?;
        let architecture =
            (kind.load)(config.clone(), &mut loader).with_context(|| format!("cannot load the model of {place}"))?;
        if loader.untied {
            config["tie_word_embeddings"] = false.into();
        }
        let prefix = loader.prefix(architecture.heads(), architecture.num_blocks())?;
        loader.check_adapter()?;
        let weight_files = match &loader.contents {
            Contents::Stored(checkpoint) => checkpoint.file_names().to_vec(),
            _ => Vec::new(),
        };
        let (adapter, linears) = (loader.adapter.take(), std::mem::take(&mut loader.linears));
        let places = std::mem::take(&mut loader.places);
        let source = source.clone();
        Ok((Model { architecture, source, config, weight_files, adapter, prefix, linears, places }, loader))
    }

    /// The sizes; a prefix reduces the maximum length.
    pub fn shape(&self) -> Shape {
        let Shape { vocab_size, max_length } = self.architecture.shape();
        Shape { vocab_size, max_length: max_length.saturating_sub(self.prefix.map_or(0, |prefix| prefix.tokens)) }
    }

    /// The number of positions, including those of a prefix.
    pub fn positions(&self) -> usize {
        self.architecture.shape().max_length
    }

    /// `model_type` in config.json.
    pub fn kind(&self) -> &str {
        self.config.get("model_type").and_then(Value::as_str).unwrap_or("?")
    }

    /// The parameters of the model's function by name: the architecture's, and an adapter's scale.
    pub fn numbers(&self) -> BTreeMap<String, Value> {
        let mut numbers = BTreeMap::new();
        flatten("", &self.architecture.numbers(), &mut numbers);
        if let Some(AdapterKind::Lora(lora)) = self.adapter.as_ref().map(Adapter::kind) {
            numbers.insert("lora scale".into(), lora.scale().into());
        }
        numbers
    }

    /// The names of the files that the weights were read from.
    pub fn weight_files(&self) -> &[String] {
        &self.weight_files
    }

    /// The files that the model was opened from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The segment and local name of a weight.
    pub fn place(&self, id: ParamId) -> Option<&Place> {
        self.places.iter().find(|place| place.id == id)
    }

    /// The weight of a local name in a segment.
    pub fn weight_in(&self, segment: Segment, name: &str) -> Option<ParamId> {
        self.places.iter().find(|place| place.segment == segment && place.name == name).map(|place| place.id)
    }

    /// The number of blocks.
    pub fn num_blocks(&self) -> usize {
        self.architecture.num_blocks()
    }

    /// The weights of the last `n` blocks and the head, without a tied embedding.
    pub fn last_blocks(&self, n: usize) -> Vec<ParamId> {
        let lowest = Segment::Block(self.num_blocks().saturating_sub(n));
        self.places.iter().filter(|place| place.segment >= lowest).map(|place| place.id).collect()
    }

    /// ln p of each prediction of the batch, in order; its logit where the normaliser is not needed. With several
    /// points, all predictions of one point follow those of the one before.
    pub fn log_probs(&self, weights: Weights, batch: &Batch) -> Result<Vec<f32>> {
        if weights.points() > 1 {
            let batch = &batch.repeated(weights.points());
            return self.log_probs_of(weights, &self.states(weights, batch)?, batch);
        }
        self.log_probs_of(weights, &self.states(weights, batch)?, batch)
    }

    /// The same for a batch that is evaluated repeatedly: `cache` holds the output of the blocks below the first
    /// trained weight.
    pub fn log_probs_cached(&self, weights: Weights, batch: &Batch, cache: &mut Option<Activations>) -> Result<Vec<f32>> {
        let Some(first) = self.first_trained_block(weights) else { return self.log_probs(weights, batch) };
        let x = match cache {
            Some(x) => x.clone(),
            None => {
                let (base, packed) = (weights.at_theta(), self.prepare(batch)?);
                let x = self.architecture.embed(base, &packed)?;
                cache.insert(self.apply_blocks(base, &packed, 0..first, x, |_, _| ())?).clone()
            }
        };
        let (x, batch) = (x.repeated(weights.points())?, &batch.repeated(weights.points()));
        let states = self.apply_blocks(weights, &self.prepare(batch)?, first..self.num_blocks(), x, |_, _| ())?;
        self.log_probs_of(weights, &states, batch)
    }

    /// The first block with a trained weight; the number of blocks if only the head is trained; None if the embedding
    /// is, or nothing.
    fn first_trained_block(&self, weights: Weights) -> Option<usize> {
        let trained = self.places.iter().filter(|place| weights.role(place.id) != Role::Frozen);
        match trained.map(|place| place.segment).min()? {
            Segment::Stem => None,
            Segment::Block(block) => Some(block),
            Segment::Head => Some(self.num_blocks()),
        }
    }

    /// The logits of the batch's predicting states: [states, vocab], f32. For inspection; [`Model::log_probs`] needs
    /// less memory.
    pub fn logits(&self, weights: Weights, batch: &Batch) -> Result<Activations> {
        self.architecture.head().logits(weights, &self.last_states(weights, batch)?)
    }

    /// The last state of the batch's predicting rows, after the final norm, as the head reads it: [states, inner], f32.
    pub fn last_states(&self, weights: Weights, batch: &Batch) -> Result<Activations> {
        self.architecture.to_head(weights, &self.states(weights, batch)?)
    }

    /// The hidden states of the batch's predicting rows: [states, hidden].
    fn states(&self, weights: Weights, batch: &Batch) -> Result<Activations> {
        self.forward(weights, &self.prepare(batch)?, |_, _| ())
    }

    pub(super) fn prepare<'a>(&self, batch: &'a Batch) -> Result<Packed<'a>> {
        self.architecture.prepare(Packed::new(batch, self.prefix.map_or(PrefixMode::None, PrefixMode::Prefix)))
    }

    /// The same for a prepared batch; `see` gets each block's index and input.
    pub(super) fn forward(
        &self,
        weights: Weights,
        packed: &Packed,
        see: impl FnMut(usize, &Activations),
    ) -> Result<Activations> {
        let x = self.architecture.embed(weights, packed)?;
        self.apply_blocks(weights, packed, 0..self.num_blocks(), x, see)
    }

    /// Applies these blocks to x.
    fn apply_blocks(
        &self,
        weights: Weights,
        packed: &Packed,
        blocks: Range<usize>,
        mut x: Activations,
        mut see: impl FnMut(usize, &Activations),
    ) -> Result<Activations> {
        for block in blocks {
            see(block, &x);
            x = self.architecture.block(weights, block, x, packed)?;
        }
        Ok(x)
    }

    /// The files that [`Model::write_companions`] may write.
    pub fn companions() -> impl Iterator<Item = &'static str> {
        ["config.json", "generation_config.json", ADAPTER_CONFIG].into_iter().chain(Tokenizer::FILES)
    }

    /// The approximate number of bytes that [`Model::write_companions`] writes.
    pub fn companion_bytes(&self) -> u64 {
        let names = Model::companions().filter(|name| self.source.has(name));
        names.map(|name| self.source.open(name).map_or(0, |(_, len)| len)).sum()
    }

    /// Writes what transformers needs beside the weights: config.json with `dtype`, and the tokenizer; with an adapter
    /// of the model `base`, what PEFT needs.
    pub fn write_companions(&self, folder: &Path, dtype: DType, base: &str) -> Result<()> {
        match self.adapter {
            Some(_) => {
                files::write_bytes(&folder.join(ADAPTER_CONFIG), &serde_json::to_vec_pretty(&self.peft_config(base))?)?
            }
            None => self.write_config(folder, dtype)?,
        }
        self.write_tokenizer(folder)
    }

    pub(super) fn write_tokenizer(&self, folder: &Path) -> Result<()> {
        for name in Tokenizer::FILES {
            if let Some(bytes) = self.source.read(name)? {
                files::write_bytes(&folder.join(name), &bytes)?;
            }
        }
        Ok(())
    }

    pub(super) fn write_config(&self, folder: &Path, dtype: DType) -> Result<()> {
        let mut config = self.config.clone();
        if let Some(fields) = config.as_object_mut() {
            let name = match dtype {
                DType::BF16 => "bfloat16",
                DType::F16 => "float16",
                _ => "float32",
            };
            fields.remove("torch_dtype");
            fields.insert("dtype".into(), name.into());
        }
        files::write_bytes(&folder.join("config.json"), &serde_json::to_vec_pretty(&config)?)?;
        match self.source.read("generation_config.json")? {
            Some(bytes) => files::write_bytes(&folder.join("generation_config.json"), &bytes),
            None => Ok(()),
        }
    }
}

/// Flattens nested objects; names are joined with dots.
fn flatten(name: &str, value: &Value, numbers: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(field, value)| {
            let name = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
            flatten(&name, value, numbers);
        }),
        number => drop(numbers.insert(name.into(), number.clone())),
    }
}
