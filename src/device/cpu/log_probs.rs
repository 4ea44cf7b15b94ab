//! Log-softmax of selected logits.

use rayon::prelude::*;

use super::math;

/// ln of the sum of e^x over each row of logits [rows, vocab]: [rows].
pub fn log_sums(logits: &[f32], vocab: usize) -> Vec<f32> {
    logits.par_chunks(vocab).map(log_sum_exp).collect()
}

/// ln softmax(row)[token] for each (row, token) of `picks`: [picks].
pub fn log_probs(logits: &[f32], vocab: usize, picks: &[(usize, u32)]) -> Vec<f32> {
    let log_sums = log_sums(logits, vocab);
    picks.iter().map(|&(row, token)| logits[row * vocab + token as usize] - log_sums[row]).collect()
}

/// The gradient of the logits, given dy [picks]: d ln p_t / d logits = onehot(t) - softmax(logits).
pub fn differentiate_log_probs(logits: &[f32], vocab: usize, picks: &[(usize, u32)], dy: &[f32]) -> Vec<f32> {
    let mut weights = vec![0f32; logits.len() / vocab];
    picks.iter().zip(dy).for_each(|((row, _), dy)| weights[*row] += dy);
    let (mut dx, log_sums) = (logits.to_vec(), log_sums(logits, vocab));
    let rows = dx.par_chunks_mut(vocab).zip(&weights).zip(&log_sums);
    rows.for_each(|((row, weight), log_sum)| scaled_softmax(row, -weight, *log_sum));
    picks.iter().zip(dy).for_each(|(&(row, token), dy)| dx[row * vocab + token as usize] += dy);
    dx
}

vectorize! {
    /// ln of the sum of e^x over `xs`.
    fn log_sum_exp(xs: &[f32]) -> f32 {
        let max = math::max(xs);
        // f32 sums over chunks, added in f64: accurate for a vocabulary of 50,000.
        let mut total = 0f64;
        for chunk in xs.chunks(1024) {
            total += f64::from(math::sum(chunk, #[inline(always)] |x| math::exp(x - max)));
        }
        if max.is_finite() { max + libm::log(total) as f32 } else { f32::NAN }
    }
}

vectorize! {
    /// x <- weight * e^(x - log_sum)
    fn scaled_softmax(xs: &mut [f32], weight: f32, log_sum: f32) {
        for x in xs.iter_mut() {
            *x = weight * math::exp(*x - log_sum);
        }
    }
}
