//! Saves a model: all weights in transformers' format, or the adapter in PEFT's. Also initialises and merges adapters.

use std::cell::RefCell;
use std::path::Path;

use anyhow::{Context, Result};

use super::Linear;
use super::lm::Model;
use super::packed::{Packed, PrefixMode};
use crate::base::Digest;
use crate::data::Batch;
use crate::device::{Activations, Array};
use crate::direction::{seed, uniform};
use crate::model::adapter::{Adapter, stored};
use crate::params::{ParamId, Params, Role, Stored, Weights, file};

/// The file of the weights that a run keeps: an adapter's, or the whole model's.
pub fn kept_file(adapted: bool) -> &'static str {
    if adapted { stored::FILES[0] } else { "model.safetensors" }
}

/// The digests of the weights `names` kept in a run's folder; if `adapted`, only those of the adapter.
pub fn kept_digests<'a>(
    folder: &Path,
    adapted: bool,
    names: impl Iterator<Item = &'a str>,
) -> Result<Vec<(&'a str, Digest)>> {
    let names: Vec<_> = names.filter_map(|name| Some((name, stored_name(adapted, name)?))).collect();
    let digests = file::stored_digests(names.iter().map(|(_, stored)| stored.as_str()), &folder.join(kept_file(adapted)))?;
    Ok(names.into_iter().map(|(name, _)| name).zip(digests).collect())
}

/// The name that a weight is stored under; None if it is not stored.
fn stored_name(adapted: bool, name: &str) -> Option<String> {
    if adapted { Adapter::stored_name(name) } else { Some(name.into()) }
}

impl Model {
    /// The adapter trained in place of the model's own weights.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// The file of the weights that a run keeps.
    pub fn file(&self) -> &'static str {
        kept_file(self.adapter.is_some())
    }

    /// Writes the weights, or only the adapter's, into a folder atomically.
    pub fn save(&self, weights: Weights, folder: &Path) -> Result<()> {
        let stored = weights.iter().filter_map(|(name, tensor)| Some((stored_name(self.adapter.is_some(), name)?, tensor)));
        let stored: Vec<(String, &Array)> = stored.collect();
        file::save(&stored, &folder.join(self.file()))
    }

    /// Reads what [`Model::save`] wrote into the same weights in place; frozen weights are unchanged.
    pub fn restore(&self, params: &mut Params, folder: &Path) -> Result<()> {
        let adapted = self.adapter.is_some();
        file::restore(params, &folder.join(self.file()), |name| if adapted { stored::own_name(name) } else { name })
    }

    /// The weights that [`Model::save`] wrote into a folder, by their digests.
    pub fn stored(&self, params: &Params, folder: &Path) -> Result<Vec<Stored>> {
        let kept = kept_digests(folder, self.adapter.is_some(), params.ids().map(|(_, name)| name))?;
        let is_trained = |name: &str| params.id(name).is_some_and(|id| params.role(id) != Role::Frozen);
        let weight = |(name, digest): (&str, Digest)| Stored { name: name.into(), trained: is_trained(name), digest };
        Ok(kept.into_iter().map(weight).collect())
    }

    /// The `adapter_config.json` of the model's adapter.
    pub(super) fn peft_config(&self, base: &str) -> serde_json::Value {
        let layers: Vec<&str> = self.linears.iter().map(|(name, _)| name.as_str()).collect();
        let config = |adapter: &Adapter| adapter.config(base, &layers, self.num_blocks(), self.architecture.heads());
        self.adapter.as_ref().map_or(serde_json::Value::Null, config)
    }

    /// Initialises a new adapter from `seed`. LoRA as in PEFT: A uniform in +-1 / sqrt(inner) (Kaiming with a = sqrt
    /// 5), B 0. A prefix gets the keys and values of random tokens, as if they preceded the text (MeZO, arXiv
    /// 2305.17333).
    pub fn begin_adapter(&self, params: &mut Params, seed: u64) -> Result<()> {
        for (name, linear) in &self.linears {
            let Some(low_rank) = linear.low_rank else { continue };
            let inner = params.settle()?.get(low_rank.a).shape()[1];
            let mut a = uniform::uniform(seed, &format!("{name}.lora_A.weight"), params.len(low_rank.a));
            a.iter_mut().for_each(|a| *a /= (inner as f32).sqrt());
            params.overwrite(low_rank.a, &mut bytemuck::cast_slice::<f32, u8>(&a))?;
        }
        if let Some(prefix) = self.prefix {
            let vocab = self.shape().vocab_size as u64;
            let token = |i: usize| (seed::direction_seed(seed, 0, i as u64) % vocab) as u32;
            let tokens: Vec<u32> = (0..prefix.tokens).map(token).collect();
            let embeddings = self.keys_and_values(params.settle()?, &tokens)?;
            params.overwrite(prefix.embeddings, &mut bytemuck::cast_slice::<f32, u8>(&embeddings))?;
        }
        Ok(())
    }

    /// The keys and values of a sequence's tokens, for each token block by block.
    fn keys_and_values(&self, weights: Weights, tokens: &[u32]) -> Result<Vec<f32>> {
        let batch = Batch::sequence(tokens);
        let packed = self.architecture.prepare(Packed::new(&batch, PrefixMode::CaptureKv(RefCell::default())))?;
        self.forward(weights, &packed, |_, _| ())?;
        let PrefixMode::CaptureKv(noted) = packed.mode else { return Ok(Vec::new()) };
        Activations::side_by_side(&noted.into_inner())?.to_vec()
    }

    /// Merges LoRA into the weights: W + s B A. Fails without LoRA.
    fn merge(&self, params: &mut Params) -> Result<()> {
        self.adapter.as_ref().context("there is no adapter to merge")?.check_merges()?;
        for (name, Linear { weight, low_rank, .. }) in &self.linears {
            if let Some(low_rank) = low_rank {
                params.add_product(*weight, low_rank.b, low_rank.a, low_rank.scale).with_context(|| name.clone())?;
            }
        }
        Ok(())
    }

    /// Writes the model with its adapter merged, in transformers' format.
    pub fn write_merged(&self, mut params: Params, folder: &Path) -> Result<()> {
        self.merge(&mut params)?;
        self.write_config(folder, params.dtype())?;
        self.write_tokenizer(folder)?;
        let weights = params.settle()?;
        let own = weights.iter().filter(|(name, _)| !stored::is_adapters(name)).map(|(name, tensor)| (name.into(), tensor));
        file::save(&own.collect::<Vec<_>>(), &folder.join(kept_file(false)))
    }

    /// The adapter's weights.
    pub fn adapter_ids(&self, params: &Params) -> Vec<ParamId> {
        params.ids().filter(|(_, name)| stored::is_adapters(name)).map(|(id, _)| id).collect()
    }
}
