//! In-context learning: training rows with their right answers before each prompt, joined by a blank line as in MeZO (Malladi et al.
//! 2023, arXiv 2305.17333).

use crate::data::task::PromptedRow;

/// Between two rows.
const SEPARATOR: &str = "\n\n";

/// Training rows that stand before a prompt.
pub struct Demonstrations {
    /// Their texts, each followed by the separator; empty without rows.
    text: String,
}

impl Demonstrations {
    /// Of these rows with their right answers, in order.
    pub fn of(rows: &[PromptedRow]) -> Self {
        let text = |row: &PromptedRow| format!("{}{SEPARATOR}", row.answered[row.label].trim());
        Demonstrations { text: rows.iter().map(text).collect() }
    }

    /// The rows with the demonstrations before each prompt.
    pub fn before(&self, rows: &[PromptedRow]) -> Vec<PromptedRow> {
        let with = |text: &String| format!("{}{text}", self.text);
        let row = |row: &PromptedRow| PromptedRow {
            prompt: with(&row.prompt),
            answered: row.answered.iter().map(with).collect(),
            ..row.clone()
        };
        rows.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(prompt: &str, answers: [&str; 2], label: usize) -> PromptedRow {
        let answered = answers.map(|answer| format!("{prompt}{answer}")).to_vec();
        PromptedRow { index: 0, place: String::new(), prompt: prompt.into(), answered, label }
    }

    #[test]
    fn right_answers_stand_before_the_prompt() {
        let shown = [row("good It was", [" bad", " great"], 1), row(" dull It was", [" bad", " great"], 0)];
        let asked = [row("fine It was", [" bad", " great"], 1)];
        let found = Demonstrations::of(&shown).before(&asked).remove(0);
        let before = "good It was great\n\ndull It was bad\n\n";
        assert_eq!(found.prompt, format!("{before}fine It was"));
        assert_eq!(found.answered, [format!("{before}fine It was bad"), format!("{before}fine It was great")]);
        assert_eq!(Demonstrations::of(&[]).before(&asked), asked);
    }
}
