//! From logits to log-probabilities of the tokens that are asked for.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::tensors::{floats, with_floats};
use crate::device::cpu::simd;

/// ln softmax(row)[token] for each of `picks` = (row of logits [rows, vocab] f32, token): [picks].
pub fn log_probs(logits: &Tensor, picks: &[(usize, u32)]) -> Result<Tensor> {
    Ok(logits.apply_op1(LogProbs { picks: picks.to_vec() })?)
}

struct LogProbs {
    picks: Vec<(usize, u32)>,
}

impl LogProbs {
    fn log_sums(logits: &[f32], vocab: usize) -> Vec<f32> {
        logits.par_chunks(vocab).map(log_sum_exp).collect()
    }
}

impl CustomOp1 for LogProbs {
    fn name(&self) -> &'static str {
        "log-probs"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (logits, vocab) = (floats(logits, layout)?, layout.shape().dims2()?.1);
        let log_sums = Self::log_sums(logits, vocab);
        let log_probs = self.picks.iter().map(|&(row, token)| logits[row * vocab + token as usize] - log_sums[row]);
        Ok((CpuStorage::F32(log_probs.collect()), self.picks.len().into()))
    }

    /// d ln p_t / d logits = onehot(t) - softmax(logits).
    fn bwd(&self, logits: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (rows, vocab) = logits.dims2()?;
        let gradient = with_floats([logits, &upstream.contiguous()?], |[logits, dy]| {
            let mut weights = vec![0f32; rows];
            self.picks.iter().zip(dy).for_each(|((row, _), dy)| weights[*row] += dy);
            let mut dx = logits.to_vec();
            let log_sums = Self::log_sums(logits, vocab);
            let rows = dx.par_chunks_mut(vocab).zip(&weights).zip(&log_sums);
            rows.for_each(|((row, weight), log_sum)| scaled_softmax(row, -weight, *log_sum));
            self.picks.iter().zip(dy).for_each(|(&(row, token), dy)| dx[row * vocab + token as usize] += dy);
            Ok(dx)
        })?;
        Ok(Some(Tensor::from_vec(gradient, (rows, vocab), logits.device())?))
    }
}

vectorize! {
    /// ln of the sum of e^x over `xs`.
    fn log_sum_exp(xs: &[f32]) -> f32 {
        let max = simd::max(xs);
        // f32 sums over short runs, joined in f64: a vocabulary of 50,000 loses nothing.
        let mut total = 0f64;
        for run in xs.chunks(1024) {
            total += f64::from(simd::sum(run, #[inline(always)] |x| simd::exp(x - max)));
        }
        if max.is_finite() { max + libm::log(total) as f32 } else { f32::NAN }
    }
}

vectorize! {
    /// x <- weight * e^(x - log_sum)
    fn scaled_softmax(xs: &mut [f32], weight: f32, log_sum: f32) {
        for x in xs.iter_mut() {
            *x = weight * simd::exp(*x - log_sum);
        }
    }
}
