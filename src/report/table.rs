//! The tables of a report: for people, in Markdown, as CSV, in a terminal.

use super::escape::{csv, markdown, shortened};
use super::goal::Goal;
use super::summary::{Report, Row, Spread, Target};
use crate::base::numbers::{short, significant};
use crate::run::Memory;

/// A table of texts.
pub struct Table {
    /// What it is about.
    pub title: String,
    /// What a reader must know of it first.
    pub about: Option<String>,
    /// Its columns.
    pub headers: Vec<String>,
    /// Its rows, each as long as the headers.
    pub rows: Vec<Vec<String>>,
}

/// The unit of memory in tables and figures.
pub const MIB: f64 = (1 << 20) as f64;

/// What a table says where a loss was not reached.
const NOT_REACHED: &str = "not reached";

/// The number of runs from which on a median is shown.
const FEW: usize = 5;

/// The three tables: what was reached, what a target loss took, memory.
pub fn tables(report: &Report) -> Vec<Table> {
    let mut all = vec![results(report)];
    all.extend((0..report.targets.len()).map(|at| to_target(report, at)));
    all.extend(report.rows.iter().any(|row| row.memory.is_some()).then(|| memory(report)));
    all
}

fn results(report: &Report) -> Table {
    let has_accuracy = report.rows.iter().any(|row| row.eval_accuracy.is_some());
    let has_tokens = report.has_tokens();
    let mut headers = vec!["method", "seeds", "lr", "steps", "evaluations"];
    headers.extend(has_tokens.then_some("tokens"));
    headers.extend(["seconds", "train loss", "eval loss"]);
    headers.extend(has_accuracy.then_some("accuracy %"));
    let has_norm = report.rows.iter().any(|row| row.gradient_norm.is_some());
    headers.extend(has_norm.then_some("gradient norm"));
    let has_correction = report.rows.iter().any(|row| row.correction_ratio.is_some());
    headers.extend(has_correction.then_some("correction / gradient"));
    headers.push("peak MiB");
    let loss = report.loss_format();
    let cells = |row: &Row| {
        let mut cells = vec![
            row.group.clone(),
            seeds(row),
            row.learning_rate.map_or("-".into(), short),
            row.steps.to_string(),
            whole(row.evaluations),
        ];
        cells.extend(has_tokens.then(|| whole(row.tokens)));
        cells.extend([row.seconds.map_or("-".into(), seconds), spread(row.train_loss, loss), spread(row.eval_loss, loss)]);
        cells.extend(has_accuracy.then(|| spread(row.eval_accuracy.map(percent), |x| format!("{x:.1}"))));
        cells.extend(has_norm.then(|| spread(row.gradient_norm, significant)));
        cells.extend(has_correction.then(|| spread(row.correction_ratio, |x| format!("{x:.4}"))));
        cells.push(row.memory.map_or("-".into(), |memory| format!("{:.0}", memory.peak_rss_bytes as f64 / MIB)));
        cells
    };
    table("Results", headers, report, cells)
}

fn to_target(report: &Report, at: usize) -> Table {
    let with_baseline = report.baseline.is_some();
    let has_tokens = report.has_tokens();
    // A median of a few seeds says little.
    let has_median = report.rows.iter().any(|row| row.seeds.len() >= FEW);
    let mut headers = vec!["method", "reached by"];
    headers.extend(has_median.then_some("median steps"));
    headers.extend(["steps", "evaluations"]);
    headers.extend(has_tokens.then_some("tokens"));
    headers.push("seconds");
    let spent = headers.len();
    headers.extend(with_baseline.then_some(["speed-up in evaluations", "speed-up in seconds"]).into_iter().flatten());
    let cells = |row: &Row| {
        let Target { reached_by, median_steps, cost } = row.targets[at];
        let mut cells = vec![row.group.clone(), format!("{reached_by} of {}", row.seeds.len())];
        cells.extend(has_median.then(|| median_steps.map_or(NOT_REACHED.into(), |steps| format!("{steps:.0}"))));
        let times = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
        if let Some(cost) = cost {
            let counted = [Some(cost.steps), Some(cost.evaluations), has_tokens.then_some(cost.tokens)];
            cells.extend(counted.into_iter().flatten().map(|x| spread(Some(x), |x| format!("{x:.0}"))));
            cells.push(spread(Some(cost.seconds), seconds));
            if with_baseline {
                cells.extend([times(cost.speed_up_evaluations), times(cost.speed_up_seconds)]);
            }
        }
        // A mean over those runs alone that reach it would be too good.
        cells.resize(spent.max(cells.len()), NOT_REACHED.into());
        cells.resize(headers.len(), "-".into());
        cells
    };
    let target = report.targets[at];
    Table { about: Some(report.target_text(target)), ..table(&format!("To loss {target}"), headers.clone(), report, cells) }
}

fn memory(report: &Report) -> Table {
    let has = |at: &usize| report.rows.iter().filter_map(|row| row.memory).any(|memory| shown(memory.parts()[*at].2) != "-");
    let kept: Vec<usize> = (0..7).filter(has).collect();
    let names = report.rows.iter().find_map(|row| row.memory).map(|memory| memory.parts().map(|(name, ..)| name));
    let mut headers = vec!["method", "peak"];
    headers.extend(names.into_iter().flat_map(|names| kept.iter().map(move |at| names[*at])));
    let cells = |row: &Row| {
        let mut cells = vec![row.group.clone()];
        match row.memory {
            Some(memory) => {
                cells.push(format!("{:.0}", memory.peak_rss_bytes as f64 / MIB));
                cells.extend(kept.iter().map(|at| shown(memory.parts()[*at].2)));
            }
            None => cells.resize(headers.len(), "-".into()),
        }
        cells
    };
    table("Memory by part, MiB", headers.clone(), report, cells)
}

/// Bytes in MiB; less than half of one is a dash.
fn shown(bytes: usize) -> String {
    let mib = bytes as f64 / MIB;
    if mib >= 0.5 { format!("{mib:.0}") } else { "-".into() }
}

fn table(title: &str, headers: Vec<&str>, report: &Report, cells: impl Fn(&Row) -> Vec<String>) -> Table {
    Table {
        title: title.into(),
        about: None,
        headers: headers.into_iter().map(String::from).collect(),
        rows: report.rows.iter().map(cells).collect(),
    }
}

/// How many runs, and how many of them are finished if not all.
fn seeds(row: &Row) -> String {
    let all = row.seeds.len();
    if row.finished == all { all.to_string() } else { format!("{all} ({} finished)", row.finished) }
}

fn whole(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.0}"))
}

fn percent(share: Spread) -> Spread {
    Spread { mean: 100.0 * share.mean, sd: share.sd.map(|sd| 100.0 * sd) }
}

fn seconds(seconds: f64) -> String {
    if seconds < 99.5 { format!("{seconds:.1}") } else { format!("{seconds:.0}") }
}

fn spread(spread: Option<Spread>, number: impl Fn(f64) -> String) -> String {
    match spread {
        Some(Spread { mean, sd: Some(sd) }) => format!("{} ± {}", number(mean), number(sd)),
        Some(Spread { mean, sd: None }) => number(mean),
        None => "-".into(),
    }
}

/// How the numbers of the tables come about, in sentences.
pub fn legend(report: &Report) -> Vec<String> {
    let mut said = vec![
        "A ± B: mean A and standard deviation B (n - 1) over the seeds.".to_string(),
        "Evaluations: function evaluations; a backward pass counts as two, a pass over the training set as the mini-batches \
         that it is worth."
            .into(),
        "Train loss: the mean of the last tenth of the steps. Eval loss and accuracy: the weights with the lowest dev loss, on \
         the evaluation split. Seconds include the scoring on the dev split."
            .into(),
        "Memory: the finished run of the group with the largest peak.".into(),
    ];
    if report.rows.iter().any(|row| row.gradient_norm.is_some()) {
        said.push("Gradient norm: that of the function that is minimised, after the last step.".into());
    }
    if report.rows.iter().any(|row| row.correction_ratio.is_some()) {
        said.push("Correction / gradient: the norms of VAMO's correction and of the mini-batch gradient, median over the logged steps.".into());
    }
    if let Some(at) = report.baseline {
        said.push(format!("Speed-up: the mean of {} divided by that of the method.", report.rows[at].group));
    }
    said.extend(report.untrained_text());
    said
}

/// The file table.md.
pub fn as_markdown(report: &Report) -> String {
    let mut text = String::from("# Report\n");
    for table in tables(report) {
        text += &format!("\n## {}\n\n", table.title);
        table.about.iter().for_each(|about| text += &format!("{}\n\n", markdown(about)));
        let line = |cells: &[String]| format!("| {} |\n", cells.iter().map(|c| markdown(c)).collect::<Vec<_>>().join(" | "));
        text += &line(&table.headers);
        text += &format!("|{}\n", "---|".repeat(table.headers.len()));
        table.rows.iter().for_each(|row| text += &line(row));
    }
    text += "\n";
    for said in legend(report).iter().chain(&report.notes) {
        text += &format!("- {}\n", markdown(said));
    }
    text
}

/// The file table.csv: one line a group, every number with all its digits. What is not known is an empty cell.
pub fn as_csv(report: &Report) -> String {
    let mut lines: Vec<Vec<(String, String)>> = Vec::new();
    for row in &report.rows {
        let mut cells = vec![
            ("group".to_string(), row.group.clone()),
            ("optimizer".into(), row.optimizer.clone()),
            ("learning_rate".into(), row.learning_rate.map_or(String::new(), |x| x.to_string())),
            ("seeds".into(), row.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")),
            ("finished".into(), row.finished.to_string()),
            ("steps".into(), row.steps.to_string()),
        ];
        let mut add =
            |name: &str, value: Option<f64>| cells.push((name.into(), value.map_or(String::new(), |x| x.to_string())));
        add("function_evaluations", row.evaluations);
        add("tokens", row.tokens);
        add("train_seconds", row.seconds);
        let scores = [
            ("train_loss", row.train_loss),
            ("eval_loss", row.eval_loss),
            ("eval_accuracy", row.eval_accuracy),
            ("gradient_norm", row.gradient_norm),
            ("correction_ratio", row.correction_ratio),
        ];
        for (name, spread) in scores {
            add(&format!("{name}_mean"), spread.map(|spread| spread.mean));
            add(&format!("{name}_sd"), spread.and_then(|spread| spread.sd));
        }
        for (i, (goal, target)) in report.targets.iter().zip(&row.targets).enumerate() {
            // Of several targets, the second and later ones are numbered.
            let number = if i == 0 { String::new() } else { format!("_{}", i + 1) };
            let (loss, percent) = match goal {
                Goal::Loss(loss) => (Some(*loss), None),
                Goal::Percent(percent) => (None, Some(*percent)),
            };
            add(&format!("target{number}_loss"), loss);
            add(&format!("target{number}_percent"), percent);
            add(&format!("target{number}_reached_by"), Some(target.reached_by as f64));
            add(&format!("target{number}_steps_median"), target.median_steps);
            let cost = target.cost;
            let spent =
                [cost.map(|c| c.steps), cost.map(|c| c.evaluations), cost.map(|c| c.tokens), cost.map(|c| c.seconds)];
            for (name, spread) in ["steps", "function_evaluations", "tokens", "seconds"].into_iter().zip(spent) {
                add(&format!("target{number}_{name}_mean"), spread.map(|spread| spread.mean));
                add(&format!("target{number}_{name}_sd"), spread.and_then(|spread| spread.sd));
            }
            let ratios = [cost.and_then(|c| c.speed_up_evaluations), cost.and_then(|c| c.speed_up_seconds)];
            add(&format!("speed_up{number}_function_evaluations"), ratios[0]);
            add(&format!("speed_up{number}_seconds"), ratios[1]);
        }
        add("peak_rss_bytes", row.memory.map(|memory| memory.peak_rss_bytes as f64));
        let none = Memory::default();
        for (at, (_, name, _)) in none.parts().into_iter().enumerate() {
            add(name, row.memory.map(|memory| memory.parts()[at].2 as f64));
        }
        lines.push(cells);
    }
    let names = lines.first().map_or(Vec::new(), |cells| cells.iter().map(|(name, _)| csv(name)).collect());
    let rows = lines.iter().map(|cells| cells.iter().map(|(_, value)| csv(value)).collect::<Vec<_>>());
    std::iter::once(names).chain(rows).map(|cells| cells.join(",") + "\n").collect()
}

/// The tables for a terminal of `width` characters. Columns that do not fit are left out, and said so.
pub fn as_text(report: &Report, width: usize) -> String {
    let mut text = String::new();
    for table in tables(report) {
        text += &format!("{}\n", table.title);
        table.about.iter().for_each(|about| text += &format!("{about}\n"));
        text += &format!("{}\n", fitted(&table, width));
    }
    text.trim_end().into()
}

/// The columns of a table that fit, with two spaces between; the first is to the left, the others to the right.
fn fitted(table: &Table, width: usize) -> String {
    const LABEL: usize = 36;
    let cell = |line: &[String], at: usize| if at == 0 { shortened(&line[0], LABEL) } else { line[at].clone() };
    let lines: Vec<&[String]> = std::iter::once(&table.headers[..]).chain(table.rows.iter().map(|row| &row[..])).collect();
    let length = |at: usize| lines.iter().map(|line| cell(line, at).chars().count()).max().unwrap_or(0);
    let (mut used, mut columns) = (0, Vec::new());
    for at in 0..table.headers.len() {
        used += length(at) + 2;
        if used <= width.max(LABEL) + 2 {
            columns.push((at, length(at)));
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells = columns.iter().map(|&(at, length)| match at {
            0 => format!("{:<length$}", cell(line, 0)),
            at => format!("{:>length$}", cell(line, at)),
        });
        text += &format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    let left_out: Vec<&str> = (0..table.headers.len())
        .filter(|at| !columns.iter().any(|(kept, _)| kept == at))
        .map(|at| &*table.headers[at])
        .collect();
    if !left_out.is_empty() {
        text += &format!("(too wide to be shown here: {})\n", left_out.join(", "));
    }
    text
}
