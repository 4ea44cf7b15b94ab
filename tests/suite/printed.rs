//! A rule as it is printed, evaluated as it is written: "m = 0.9 m + 0.1 g; theta -= lr m / sqrt(v + 1e-8)".

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

/// A definition, and its state at one weight.
pub struct Printed {
    /// `m` and what it becomes, in order.
    states: Vec<(String, Vec<String>)>,
    /// What is taken from theta.
    moves: Vec<Vec<String>>,
    corrected: bool,
    state: BTreeMap<String, f64>,
}

impl Printed {
    /// Of statements between semicolons; what stands behind a comma is prose.
    pub fn parse(definition: &str) -> Result<Self> {
        let mut printed = Printed { states: Vec::new(), moves: Vec::new(), corrected: false, state: BTreeMap::new() };
        for statement in definition.split("; ") {
            match statement.split(", ").next().unwrap_or_default() {
                "bias-corrected" => printed.corrected = true,
                "no bias correction" | "state in bf16" => {}
                said => match (said.strip_prefix("theta -= "), said.split_once(" = ")) {
                    (Some(of_theta), _) => printed.moves.push(words(of_theta)),
                    (None, Some((name, value))) => printed.states.push((name.into(), words(value))),
                    _ => bail!("\"{statement}\" cannot be evaluated"),
                },
            }
        }
        ensure!(!printed.moves.is_empty(), "\"{definition}\" moves nothing");
        Ok(printed)
    }

    /// Forgets its state.
    pub fn begin(&mut self) {
        self.state = self.states.iter().flat_map(|(name, _)| [(name.clone(), 0.0), (format!("max {name}"), 0.0)]).collect();
    }

    /// Theta behind step `t`. Where the slope `c` along `z` stands, the mean over the directions is meant.
    pub fn step(&mut self, theta: f64, g: f64, directions: &[(f64, f64)], lr: f64, t: i32) -> Result<f64> {
        let mean = |words: &[String], known: &BTreeMap<String, f64>| -> Result<f64> {
            let mut sum = 0.0;
            for (c, z) in directions {
                let mut known = known.clone();
                known.extend([("c", *c), ("z", *z)].map(|(name, x)| (name.to_string(), x)));
                sum += evaluated(words, &known)? / directions.len() as f64;
            }
            Ok(sum)
        };
        let given = [("theta", theta), ("g", g), ("lr", lr)].map(|(name, x)| (name.to_string(), x));
        for (name, value) in &self.states {
            let known = self.state.iter().map(|(name, x)| (name.clone(), *x)).chain(given.clone()).collect();
            let x = mean(value, &known)?;
            let largest = self.state[&format!("max {name}")].max(x);
            self.state.extend([(name.clone(), x), (format!("max {name}"), largest)]);
        }
        let mut known: BTreeMap<String, f64> = self.state.clone().into_iter().chain(given).collect();
        if self.corrected {
            for (name, value) in &self.states {
                let beta: f64 = value[0].parse().context("a recurrence begins with its factor")?;
                *known.get_mut(name).context("state")? /= 1.0 - beta.powi(t);
            }
        }
        let mut moved = theta;
        for taken in &self.moves {
            moved -= mean(taken, &known)?;
        }
        Ok(moved)
    }
}

/// Numbers, names and signs.
fn words(text: &str) -> Vec<String> {
    let spaced = text.replace("^2", " ^2 ").replace('(', " ( ").replace(')', " ) ");
    spaced.split_whitespace().map(String::from).collect()
}

fn evaluated(words: &[String], known: &BTreeMap<String, f64>) -> Result<f64> {
    let mut at = 0;
    let value = sum(words, &mut at, known)?;
    ensure!(at == words.len(), "{words:?} goes on behind {at} words");
    Ok(value)
}

fn is(words: &[String], at: usize, word: &str) -> bool {
    words.get(at).is_some_and(|w| w == word)
}

fn sum(words: &[String], at: &mut usize, known: &BTreeMap<String, f64>) -> Result<f64> {
    let mut value = product(words, at, known)?;
    while is(words, *at, "+") {
        *at += 1;
        value += product(words, at, known)?;
    }
    Ok(value)
}

/// Factors side by side, and what the next one divides.
fn product(words: &[String], at: &mut usize, known: &BTreeMap<String, f64>) -> Result<f64> {
    let mut value = factor(words, at, known)?;
    while *at < words.len() && !is(words, *at, "+") && !is(words, *at, ")") {
        if is(words, *at, "/") {
            *at += 1;
            value /= factor(words, at, known)?;
        } else {
            value *= factor(words, at, known)?;
        }
    }
    Ok(value)
}

fn factor(words: &[String], at: &mut usize, known: &BTreeMap<String, f64>) -> Result<f64> {
    let word = words.get(*at).context("a word is missing")?.as_str();
    *at += 1;
    let value = match word {
        "(" => inner(words, at, known)?,
        "sqrt" | "sign" => {
            ensure!(is(words, *at, "("), "{word} of nothing");
            *at += 1;
            let x = inner(words, at, known)?;
            if word == "sqrt" { x.sqrt() } else { x.signum() }
        }
        "max" => {
            *at += 1;
            known[&format!("max {}", words[*at - 1])]
        }
        number if number.starts_with(|c: char| c.is_ascii_digit()) => number.parse()?,
        name => *known.get(name).with_context(|| format!("nobody knows what {name} is"))?,
    };
    if is(words, *at, "^2") {
        *at += 1;
        return Ok(value * value);
    }
    Ok(value)
}

fn inner(words: &[String], at: &mut usize, known: &BTreeMap<String, f64>) -> Result<f64> {
    let value = sum(words, at, known)?;
    ensure!(is(words, *at, ")"), "a bracket is open in {words:?}");
    *at += 1;
    Ok(value)
}
