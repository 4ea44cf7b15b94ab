//! `tasks`: the tasks, their files, and one of their examples.

use anyhow::{Context, Result};

use super::args::{ShowArgs, TasksArgs, TasksVerb};
use super::format::loss_name;
use super::screen::say;
use crate::base::errors::given;
use crate::base::text::nearest;
use crate::config::{Common, Inputs};
use crate::data::Example;
use crate::data::task::{BUILTIN, PromptedRow, Sizes, Task};
use crate::data::tokenizer::Tokenizer;
use crate::run::LoadedModel;

pub fn tasks_verb(args: TasksArgs) -> Result<()> {
    match args.verb.unwrap_or(TasksVerb::List) {
        TasksVerb::List => {
            for (name, _) in BUILTIN {
                say(&format!("{name:<8} {}", Task::open(name)?.description))?;
            }
            Ok(())
        }
        TasksVerb::Show(args) if args.example => show_example(args),
        TasksVerb::Show(ShowArgs { name, .. }) => {
            let known = BUILTIN.iter().find(|(n, _)| *n == name);
            let (_, text) = known.ok_or_else(|| {
                usage!("there is no task \"{name}\": {}", nearest(&name, BUILTIN.iter().map(|(name, _)| *name)))
            })?;
            say(text.trim_end())
        }
    }
}

/// Prints the first training row as the model reads it.
fn show_example(args: ShowArgs) -> Result<()> {
    let ShowArgs { name, model, data, .. } = args;
    let inputs = Inputs::check(Common { model, data: data.clone(), task: Some(name.clone()), ..Common::default() })?;
    let task = given(Task::open(&name))?;
    let files = given(task.data(data.as_deref()))?;
    let rows = given(task.splits(&files, Sizes::default(), inputs.train_set_seed))?;
    let row = rows.train.first().context("the training split is empty")?;
    let opened = LoadedModel::open_meta(&inputs)?.0;
    let examples = given(opened.encode(std::slice::from_ref(row)))?;
    let example = examples.first().context("the row has no example")?;
    say(&render(&task, row, example, &opened.tokenizer))
}

/// The row, its prompt and answers, and the tokens of the prompt with the right answer.
fn render(task: &Task, row: &PromptedRow, example: &Example, tokenizer: &Tokenizer) -> String {
    let mut text = format!("row      {}\nprompt   {:?}\n", row.place, row.prompt);
    for (i, whole) in row.answered.iter().enumerate() {
        let answer = whole.strip_prefix(&row.prompt).unwrap_or(whole);
        let right = if i == example.label { "   (the right one)" } else { "" };
        text += &format!("answer   {answer:?}{right}\n");
    }
    let candidate = &example.candidates[example.label];
    let first_scored = candidate.tokens.len() - candidate.option_len;
    let cut = if example.cut { "; the prompt is too long, and its beginning was cut" } else { "" };
    text += &format!("tokens   {}, {} of them scored{cut}\n", candidate.tokens.len(), candidate.option_len);
    for (i, (id, piece)) in candidate.tokens.iter().zip(tokenizer.pieces(&candidate.tokens)).enumerate() {
        let scored = if i >= first_scored { "   scored" } else { "" };
        text += &format!("  {i:>5}  {id:>6}  {piece}{scored}\n");
    }
    text + &format!("loss     {}", loss_name(task))
}
