//! The table of a sweep as text: Markdown, padded so that it reads well in a terminal too.

use super::choice::{Edge, Row, Spread, Tried};
use crate::base::numbers::significant;

/// The table: what was chosen, then all that was tried.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "Chosen by dev loss: in each row the setting with the lowest mean over its seeds. Reported on the evaluation split, which \
         chose nothing. +- is half of the difference between the highest and the lowest seed.\n\n",
    );
    let mut chosen =
        vec![["group", "chosen", "seeds", "dev loss", "eval loss", "accuracy %", "untrained"].map(String::from).to_vec()];
    for row in rows {
        let cells = match row.chosen.map(|i| &row.settings[i]) {
            Some(tried) => vec![
                row.name.clone(),
                said(tried),
                tried.seeds.len().to_string(),
                spread(tried.dev_loss, loss),
                spread(tried.eval_loss, loss),
                spread(tried.eval_accuracy, |share| format!("{:.1}", 100.0 * share)),
                untrained(tried),
            ],
            None => [row.name.as_str(), "no setting is finished", "", "", "", "", ""].map(String::from).to_vec(),
        };
        chosen.push(cells);
    }
    text += &markdown(&chosen);
    for row in rows {
        if let (Some(edge), Some(chosen)) = (row.edge, row.chosen) {
            let (which, other) = match edge {
                Edge::Lowest => ("lowest", "lower"),
                Edge::Highest => ("highest", "higher"),
            };
            let of = if row.name.is_empty() { String::new() } else { format!("{}: ", row.name) };
            text += &format!(
                "\n{of}{} is the {which} learning rate that was tried; a {other} one may be better.\n",
                short(row.settings[chosen].learning_rate)
            );
        }
    }
    if rows.iter().any(|row| row.settings.len() > 1) {
        text += "\nAll settings that were tried:\n\n";
        let mut all = vec![["group", "setting", "seeds", "steps", "dev loss", "note"].map(String::from).to_vec()];
        for row in rows {
            for (i, tried) in row.settings.iter().enumerate() {
                let note = match (row.chosen == Some(i), tried.failed, tried.left) {
                    (true, ..) => "chosen".into(),
                    (_, 0, true) => "left by halving".into(),
                    (_, 0, false) if tried.eval_loss.is_none() => "not finished".into(),
                    (_, 0, false) => String::new(),
                    (_, failed, _) => format!("{failed} of {} failed", tried.cells.len()),
                };
                all.push(vec![
                    row.name.clone(),
                    said(tried),
                    tried.seeds.len().to_string(),
                    tried.steps.to_string(),
                    spread(tried.dev_loss, loss),
                    note,
                ]);
            }
        }
        text += &markdown(&all);
    }
    text
}

/// A setting's options, with its learning rate in any case.
fn said(tried: &Tried) -> String {
    let rate = format!("lr {}", short(tried.learning_rate));
    let has_rate = tried.setting.split(", ").any(|option| option.starts_with("lr "));
    match (has_rate, tried.setting.is_empty()) {
        (true, _) => tried.setting.clone(),
        (false, true) => rate,
        (false, false) => format!("{}, {rate}", tried.setting),
    }
}

/// A learning rate with three digits.
fn short(rate: f64) -> String {
    super::names::shown(&format!("{rate:.2e}").parse::<f64>().unwrap_or(rate).into())
}

/// The score before training: the accuracy, else the loss.
fn untrained(tried: &Tried) -> String {
    match (tried.untrained_eval_accuracy, tried.untrained_eval_loss) {
        (Some(accuracy), _) => format!("{:.1} %", 100.0 * accuracy),
        (None, Some(untrained)) => format!("loss {}", loss(untrained)),
        _ => "-".into(),
    }
}

fn spread(spread: Option<Spread>, number: impl Fn(f64) -> String) -> String {
    let Some(Spread { mean, lowest, highest }) = spread else { return "-".into() };
    match highest > lowest {
        true => format!("{} +- {}", number(mean), number((highest - lowest) / 2.0)),
        false => number(mean),
    }
}

/// A loss with four decimals, as those of language models, which are near 1; those of labs may be of any size.
fn loss(x: f64) -> String {
    match x.abs() {
        size if size == 0.0 || (1e-3..1e4).contains(&size) => format!("{x:.4}"),
        _ => significant(x),
    }
}

/// Rows of cells, the first of them the header. Columns that are empty in every row are left out.
fn markdown(rows: &[Vec<String>]) -> String {
    let columns: Vec<usize> =
        (0..rows[0].len()).filter(|column| rows[1..].iter().any(|row| !row[*column].is_empty())).collect();
    let escaped = |text: &String| text.replace('|', "\\|");
    let width = |column: usize| rows.iter().map(|row| escaped(&row[column]).chars().count()).max().unwrap_or(0).max(3);
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let cells = columns.iter().map(|column| {
            let cell = escaped(&row[*column]);
            let pad = width(*column) - cell.chars().count();
            format!("{cell}{}", " ".repeat(pad))
        });
        text += &format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
        if i == 0 {
            let lines = columns.iter().map(|column| "-".repeat(width(*column)));
            text += &format!("|-{}-|\n", lines.collect::<Vec<_>>().join("-|-"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(rate: f64, dev: &[f64], eval: Option<&[f64]>) -> Tried {
        let of = |values: &[f64]| Spread::of(values.iter().map(|x| Some(*x)));
        Tried {
            setting: format!("lr {rate:e}"),
            cells: dev.iter().map(|_| "a".into()).collect(),
            seeds: dev.iter().map(|_| "0".into()).collect(),
            learning_rate: rate,
            steps: 50,
            left: eval.is_none(),
            failed: 0,
            dev_loss: of(dev),
            eval_loss: eval.and_then(of),
            eval_accuracy: None,
            untrained_eval_accuracy: None,
            untrained_eval_loss: Some(0.8),
        }
    }

    #[test]
    fn a_table_says_what_chose_and_what_is_reported() {
        let settings = vec![tried(1e-4, &[0.5, 0.7], Some(&[0.55, 0.65])), tried(1e-3, &[0.9, 0.9], None)];
        let row = Row { name: "a|b".into(), chosen: Some(0), edge: Some(Edge::Lowest), settings };
        let text = table(&[row]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("Chosen by dev loss") && lines[0].contains("Reported on the evaluation split"));
        assert_eq!(lines[2], "| group | chosen  | seeds | dev loss         | eval loss        | accuracy % | untrained   |");
        assert_eq!(
            lines[4],
            "| a\\|b  | lr 1e-4 | 2     | 0.6000 +- 0.1000 | 0.6000 +- 0.0500 | -          | loss 0.8000 |"
        );
        assert!(text.contains("a|b: 1e-4 is the lowest learning rate that was tried; a lower one may be better."));
        assert!(text.contains("| left by halving |"));
        assert_eq!(short(4.361_234e-4), "4.36e-4");
    }
}
