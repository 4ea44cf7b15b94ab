//! The splits of a task, drawn with NumPy's legacy generator as MeZO draws them.

use anyhow::Result;

use super::definition::Task;
use super::files::Files;
use super::kinds::{Part, Sizes};
use super::prompted::{PromptedRow, Splits};
use super::row_file::RowFile;
use crate::base::permutation::permutation;

/// MeZO's sizes, the defaults if the data are large enough.
const NUM_TRAIN: usize = 1000;

const NUM_DEV: usize = 500;

const NUM_EVAL: usize = 1000;

impl Task {
    /// Draws the splits as MeZO does, with NumPy's generator, and renders their rows.
    ///
    /// Train and dev are one draw of num_train + num_dev rows of the training file, dev last; the evaluation split is
    /// drawn from the evaluation file with the same seed. Without an evaluation file it is the end of the training
    /// file's permutation, independent of the other sizes. A dev file is drawn from like the evaluation file.
    pub fn splits(&self, files: &Files, asked: Sizes, seed: u32) -> Result<Splits> {
        let (train, dev) = self.train_and_dev(files, asked, seed)?;
        Ok(Splits { train, dev, eval: self.eval_split(files, asked, seed)? })
    }

    /// The training and dev splits alone.
    pub fn train_and_dev(&self, files: &Files, asked: Sizes, seed: u32) -> Result<(Vec<PromptedRow>, Vec<PromptedRow>)> {
        let file = RowFile::open(self, files, Part::Train)?;
        let (num_train, dev_apart) = self.num_train(files, &file, asked)?;
        let mut drawn = file.take(&permutation(seed, file.count)[..num_train + dev_apart])?;
        let mut dev = file.prompts(&drawn.split_off(num_train))?;
        if files.has_file(Part::Dev) {
            let file = RowFile::open(self, files, Part::Dev)?;
            let num_dev = asked.num_dev.unwrap_or(NUM_DEV.min(file.count));
            dev = file.prompts(&file.first(num_dev, "num_dev", seed)?)?;
        }
        Ok((file.prompts(&drawn)?, dev))
    }

    /// The evaluation split alone.
    pub fn eval_split(&self, files: &Files, asked: Sizes, seed: u32) -> Result<Vec<PromptedRow>> {
        let file = RowFile::open(self, files, Part::Eval)?;
        let num_eval = self.num_eval(files, &file, asked)?;
        let drawn = match files.has_file(Part::Eval) {
            true => file.first(num_eval, "num_eval", seed)?,
            false => file.take(&permutation(seed, file.count)[file.count - num_eval..])?,
        };
        file.prompts(&drawn)
    }

    /// The number of training rows, and of dev rows drawn from the training file.
    fn num_train(&self, files: &Files, file: &RowFile, asked: Sizes) -> Result<(usize, usize)> {
        let (place, count) = (&file.rows.place, file.count);
        let num_dev = asked.num_dev.or(self.splits.num_dev).unwrap_or(files.default_size(count, NUM_DEV));
        let dev_apart = if files.has_file(Part::Dev) { 0 } else { num_dev };
        let eval_apart = if files.has_file(Part::Eval) { 0 } else { self.num_eval(files, file, asked)? };
        let apart = dev_apart.saturating_add(eval_apart);
        if apart >= count || asked.num_train.is_some_and(|n| n > count - apart) {
            let num_train = asked.num_train.unwrap_or(1);
            let total = apart.saturating_add(num_train);
            let (num_eval, names) = match eval_apart {
                0 => (String::new(), "`num_train` and `num_dev`"),
                n => (format!(" + {n}"), "`num_train`, `num_dev` and `num_eval`"),
            };
            return Err(usage!(
                "{place} has {count} rows, but {num_train} + {dev_apart}{num_eval} = {total} are asked for ({names})"
            ));
        }
        let usual = if matches!(files, Files::Own(_)) { usize::MAX } else { NUM_TRAIN };
        let num_train = asked.num_train.or(self.splits.num_train).unwrap_or(usual).min(count - apart);
        for (name, size) in [("num_train", num_train), ("num_dev", num_dev)] {
            if size == 0 {
                return Err(usage!("`{name}` 0: it must be at least 1"));
            }
        }
        Ok((num_train, dev_apart))
    }

    /// The number of evaluation rows drawn from `file`.
    fn num_eval(&self, files: &Files, file: &RowFile, asked: Sizes) -> Result<usize> {
        let mut asked = asked.num_eval.or(self.splits.num_eval);
        let (place, count) = (&file.rows.place, file.count);
        match asked {
            // MeZO's published commands ask for 1,000 of SST-2's 872 rows.
            Some(n) if n > count && files.has_file(Part::Eval) => {
                tracing::info!("`num_eval` {n}: {place} has only {count} rows; all of them are used");
                asked = Some(count);
            }
            Some(n) if n == 0 || n > count => {
                return Err(usage!("`num_eval` {n}: it must be between 1 and {count}, the rows of {place}"));
            }
            _ => {}
        }
        let usual = if files.has_file(Part::Eval) { NUM_EVAL } else { files.default_size(file.count, NUM_EVAL) };
        Ok(asked.unwrap_or(usual.min(file.count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first values of `np.random.seed(0); np.random.permutation(n)`.
    #[test]
    fn permutations_are_numpys() {
        for (n, first) in [
            (10, vec![2, 8, 4, 9, 1, 6, 7, 3, 0, 5]),
            (67349, vec![43787, 16159, 59015, 5108, 67052, 35938, 49879, 51591]),
            (872, vec![372, 676, 548, 293, 382, 532, 263, 636]),
            (400, vec![132, 309, 341, 196, 246, 60, 155, 261]),
            (100, vec![26, 86, 2, 55, 75, 93, 16, 73]),
        ] {
            assert_eq!(permutation(0, n)[..first.len()], first, "permutation({n})");
        }
        assert_eq!(permutation(0, 0), Vec::<usize>::new());
    }
}
