//! Log-probabilities of selected tokens from logits.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::tensors::{floats, with_floats};
use crate::device::Activations;
use crate::device::cpu::log_probs as cpu;

/// ln softmax(row)[token] for each (row, token) of `picks`: logits [rows, vocab], f32 -> [picks].
pub fn log_probs(logits: &Activations, picks: &[(usize, u32)]) -> Result<Activations> {
    logits.map(|logits| Ok(logits.apply_op1(LogProbs { picks: picks.to_vec() })?))
}

struct LogProbs {
    picks: Vec<(usize, u32)>,
}

impl CustomOp1 for LogProbs {
    fn name(&self) -> &'static str {
        "log-probs"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (_, vocab) = layout.shape().dims2()?;
        let log_probs = cpu::log_probs(floats(logits, layout)?, vocab, &self.picks);
        Ok((CpuStorage::F32(log_probs), self.picks.len().into()))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (_, vocab) = logits.dims2()?;
        let gradient = with_floats([logits, &upstream.contiguous()?], |[logits, dy]| {
            Ok(cpu::differentiate_log_probs(logits, vocab, &self.picks, dy))
        })?;
        Ok(Some(Tensor::from_vec(gradient, logits.shape(), logits.device())?))
    }
}
