//! The shape of the program: rooms in reading order, two wings that do not know each other, and no file that is nobody's.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result};

/// The sources: each module's path from the root, as `model::arch::opt`, with its text. The root's is empty.
struct Sources {
    text: BTreeMap<Vec<String>, String>,
    /// The modules that a folder's mod.rs lists, in order.
    lists: HashMap<Vec<String>, Vec<String>>,
    /// What a mod.rs names anew: a name to the path that it stands for.
    names: HashMap<(Vec<String>, String), Vec<String>>,
}

/// A use of one module by another.
#[derive(Debug)]
struct Reference {
    /// The folder in which the two ways part.
    folder: Vec<String>,
    /// What uses, and what is used, there.
    from: String,
    to: String,
    /// The module and what it wrote.
    place: String,
}

impl Sources {
    fn read() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        sources(&root, &mut files)?;
        let (mut text, mut lists) = (BTreeMap::new(), HashMap::new());
        for file in files.iter().filter(|file| !file.ends_with("main.rs")) {
            let inside = file.strip_prefix(&root)?.with_extension("");
            let mut module: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            let code = code_of(&std::fs::read_to_string(file)?);
            if module.last().is_some_and(|last| last == "mod" || last == "lib") {
                module.pop();
                let list = code.lines().filter_map(|line| {
                    let line =
                        line.trim_start_matches("pub(super) ").trim_start_matches("pub(crate) ").trim_start_matches("pub ");
                    Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_string())
                });
                lists.insert(module.clone(), list.collect());
            }
            text.insert(module, code);
        }
        let mut this = Sources { text, lists, names: HashMap::new() };
        for module in this.lists.keys() {
            for (path, name) in uses_of(&this.text[module], "pub use ").chain(uses_of(&this.text[module], "pub(super) use "))
            {
                if let Some(path) = this.absolute(module, &path) {
                    this.names.insert((module.clone(), name), path);
                }
            }
        }
        Ok(this)
    }

    /// A path that a module wrote, from the root; None of another crate's.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let mut base = module.to_vec();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &rest[1..];
            }
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            "self" => rest = &rest[1..],
            // In a folder's mod.rs one of its own modules.
            first => drop(self.lists.get(module)?.iter().find(|own| *own == first)?),
        }
        base.extend(rest.iter().filter(|part| *part != "self").cloned());
        Some(base)
    }

    /// The module that a path leads to, through names that a mod.rs gives anew.
    fn module_of(&self, path: &[String]) -> Vec<String> {
        let len = (0..=path.len()).rev().find(|len| self.text.contains_key(&path[..*len])).unwrap_or(0);
        let (module, rest) = path.split_at(len);
        match rest.first().and_then(|name| self.names.get(&(module.to_vec(), name.clone()))) {
            Some(other) if other != path => self.module_of(other),
            _ => module.to_vec(),
        }
    }

    /// All uses of one module by another that is neither above nor below it in the tree.
    fn references(&self) -> Result<Vec<Reference>> {
        let mut all = Vec::new();
        for (module, code) in &self.text {
            let imported = uses_of(code, "use ").map(|(path, _)| path);
            let inline = inline_paths(code);
            for path in imported.chain(inline) {
                let Some(path) = self.absolute(module, &path) else { continue };
                let to = self.module_of(&path);
                let common = module.iter().zip(&to).take_while(|(a, b)| a == b).count();
                let place = format!("{}: {}", module.join("::"), path.join("::"));
                if common == module.len() {
                    continue;
                }
                // Macros stand at the root.
                if to.is_empty() && path.len() == 1 {
                    continue;
                }
                let used = to.get(common).with_context(|| format!("{place} is in no file below {}", to.join("::")))?;
                let (folder, from) = (module[..common].to_vec(), module[common].clone());
                all.push(Reference { folder, from, to: used.clone(), place });
            }
        }
        Ok(all)
    }
}

/// A file without its comments and its tests.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that lines beginning with `start` import, and under which names.
fn uses_of<'a>(code: &'a str, start: &'a str) -> impl Iterator<Item = (Vec<String>, String)> + 'a {
    let begins = code.match_indices(start).filter(move |(at, _)| {
        let before = &code[..*at];
        before.is_empty() || before.ends_with('\n') || before.ends_with("    ")
    });
    begins.flat_map(move |(at, _)| {
        let tree = code[at + start.len()..].split(';').next().unwrap_or_default();
        leaves(&tree.split_whitespace().collect::<Vec<_>>().join(" "))
    })
}

/// The leaves of a tree of imports: `a::{b, c::D as E}`.
fn leaves(tree: &str) -> Vec<(Vec<String>, String)> {
    let Some(open) = tree.find('{') else {
        let (path, name) = tree.split_once(" as ").unwrap_or((tree, tree.rsplit("::").next().unwrap_or(tree)));
        return vec![(path.trim().split("::").map(String::from).collect(), name.trim().to_string())];
    };
    let (front, body) = (&tree[..open], &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())]);
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in body.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&body[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&body[start..]);
    parts.iter().filter(|part| !part.trim().is_empty()).flat_map(|part| leaves(&format!("{front}{}", part.trim()))).collect()
}

/// Paths that are written out where they are used.
fn inline_paths(code: &str) -> impl Iterator<Item = Vec<String>> + '_ {
    ["crate::", "super::"].into_iter().flat_map(move |start| code.match_indices(start)).filter_map(|(at, _)| {
        let line = code[..at].rsplit('\n').next().unwrap_or_default();
        let inside_a_path = line.ends_with("::") || line.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        if inside_a_path || line.contains("use ") {
            return None;
        }
        let path: String = code[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
        Some(path.trim_end_matches(':').split("::").map(String::from).collect())
    })
}

fn sources(folder: &Path, found: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// In every folder a module uses only what stands above it in the folder's list, or in a list of those above it. So there are no circles.
#[test]
fn a_module_uses_only_what_stands_above_it() -> Result<()> {
    let sources = Sources::read()?;
    let references = sources.references()?;
    for Reference { folder, from, to, place } in &references {
        let list = &sources.lists[folder];
        let stands = |name: &String| list.iter().position(|listed| listed == name);
        let folder = folder.join("::");
        assert!(stands(to) < stands(from), "{place}: in {folder} {to} does not stand above {from}");
    }
    let (files, folders) = (sources.text.len(), sources.lists.len());
    println!("{files} files in {folders} folders, {} uses", references.len());
    assert!(
        files > 200 && folders > 20 && references.len() > 700,
        "{files} files, {folders} folders, {} uses",
        references.len()
    );
    Ok(())
}

/// The optimiser wing knows nothing of language models, the language wing nothing of optimisers. They meet in prompt/.
#[test]
fn the_two_wings_do_not_know_each_other() -> Result<()> {
    const OPTIMISERS: [&str; 4] = ["direction", "params", "zo", "labs"];
    const LANGUAGE: [&str; 4] = ["hub", "data", "formats", "model"];
    let sources = Sources::read()?;
    for wing in [OPTIMISERS, LANGUAGE] {
        assert!(wing.iter().all(|room| sources.lists[&Vec::new()].iter().any(|listed| listed == room)), "{wing:?}");
    }
    let is_in = |wing: &[&str], name: &str| wing.contains(&name);
    for Reference { from, to, place, .. } in sources.references()?.iter().filter(|r| r.folder.is_empty()) {
        assert!(!(is_in(&OPTIMISERS, from) && is_in(&LANGUAGE, to)), "{place}: {from} is of the optimiser wing");
        let optimisers = is_in(&LANGUAGE, from) && ["zo", "labs"].contains(&to.as_str());
        assert!(!optimisers, "{place}: {from} is of the language wing");
    }
    Ok(())
}

/// A folder's mod.rs is a table of contents.
#[test]
fn a_mod_rs_lists_its_modules_and_nothing_else() -> Result<()> {
    let sources = Sources::read()?;
    for module in sources.lists.keys() {
        let mut open = false;
        for line in sources.text[module].lines().map(str::trim).filter(|line| !line.is_empty()) {
            let is_listed = line.contains("mod ") && line.ends_with(';') || line.starts_with("#[macro_use]");
            let begins = line.starts_with("pub use ") || line.starts_with("pub(super) use ");
            assert!(is_listed || begins || open, "{}: {line}", module.join("::"));
            open = (open || begins) && !line.ends_with(';');
        }
    }
    Ok(())
}

/// Weights change in params/ only: nobody else holds an in-place operation.
#[test]
fn only_params_moves_weights() -> Result<()> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files)?;
    assert!(files.len() > 20, "{} files", files.len());
    for file in files.iter().filter(|f| !f.strip_prefix(&src).is_ok_and(|f| f.starts_with("params"))) {
        let text = std::fs::read_to_string(file)?;
        // Only activations are variables: the inputs of blocks that are differentiated.
        let variables = if file.ends_with("device/activations.rs") { "VarMap" } else { "Var::" };
        for word in ["inplace_op", variables, "VarMap", "slice_set"] {
            assert!(!text.contains(word), "{} has {word}", file.display());
        }
    }
    Ok(())
}

#[test]
fn every_config_and_every_task_loads() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut counts = [0, 0];
    for (n, folder) in [(0, "configs"), (0, "configs/methods"), (1, "tasks")] {
        for entry in std::fs::read_dir(root.join(folder))? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "toml") {
                continue;
            }
            let place = path.display().to_string();
            if n == 0 {
                let knobs = zotune::config::RawArgs::from_toml(&std::fs::read_to_string(&path)?, &place)?;
                let plan = zotune::config::RunConfig::check(knobs)?;
                zotune::zo::methods::method(&plan.optimizer)?.check(&plan.settings)?;
                if folder == "configs/methods" {
                    assert_eq!(path.file_stem().and_then(|s| s.to_str()), Some(plan.optimizer.as_str()));
                }
                zotune::data::task::Task::of(plan.inputs.task.as_deref(), None)?;
            } else {
                zotune::data::task::Task::open(&place)?;
            }
            counts[n] += 1;
        }
    }
    println!("{} configs and {} tasks load", counts[0], counts[1]);
    assert!(
        counts[0] >= 2 + zotune::zo::methods::METHODS.len() && counts[1] == zotune::data::task::definition::BUILTIN.len(),
        "{counts:?}"
    );
    Ok(())
}

/// The text of each string literal in a source, but for those in comments and in its module of tests.
fn literals(source: &str) -> Vec<String> {
    let (before, tests) = source.split_once("#[cfg(test)]\nmod tests").unwrap_or((source, ""));
    let after = tests.split_once("\n}\n").map_or("", |(_, after)| after);
    let code = format!("{before}{after}");
    let (mut found, mut rest) = (Vec::new(), code.as_str());
    while let Some(c) = rest.chars().next() {
        let raw = rest.strip_prefix('r').map(|rest| rest.trim_start_matches('#')).filter(|rest| rest.starts_with('"'));
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with(r"'\") {
            // A character such as a quote; what is behind it ends it.
            3 + rest[3..].find('\'').unwrap_or(0) + 1
        } else if rest.starts_with("'\"'") {
            3
        } else if let Some(text) = raw {
            let hashes = rest.len() - text.len() - 1;
            let end = format!("\"{}", "#".repeat(hashes));
            let len = text[1..].find(&end).unwrap_or(text.len() - 1);
            found.push(text[1..1 + len].to_string());
            1 + hashes + 1 + len + end.len()
        } else if c == '"' {
            let mut escaped = false;
            let is_end = |c: char| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            };
            let len = rest[1..].find(is_end).unwrap_or(rest.len() - 1);
            found.push(rest[1..1 + len].to_string());
            (len + 2).min(rest.len())
        } else if c.is_alphanumeric() || c == '_' {
            // A whole word, so that the r at its end begins no raw string.
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else {
            c.len_utf8()
        };
        rest = &rest[len..];
    }
    found
}

/// Whether a text has a flag in it: two dashes and a letter.
fn has_flag(text: &str) -> bool {
    text.match_indices("--").any(|(at, _)| text[at + 2..].starts_with(|c: char| c.is_ascii_lowercase()))
}

/// The library names options as a config file does; the command line makes flags of them (see `usage!` in base/errors.rs). Whoever calls
/// the library has typed no flag.
#[test]
fn only_the_command_line_speaks_of_flags() -> Result<()> {
    let sample = "f(\"a \\\" --b\", '\"', '\\'', r#\"x \" --c\"#); // \"--d\"\n#[cfg(test)]\nmod tests {\n g(\"--e\");\n}\nh(\"--f\")";
    assert_eq!(literals(sample), ["a \\\" --b", "x \" --c", "--f"]);
    assert!(has_flag("a --b") && has_flag("--{x}--b") && !has_flag("a -- b, ---, --{name}, -b"));

    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files)?;
    let mut count = 0;
    for file in files {
        let name = file.strip_prefix(&src)?;
        if name.starts_with("cli") || name == Path::new("config/args.rs") {
            continue;
        }
        for literal in literals(&std::fs::read_to_string(&file)?) {
            count += 1;
            // Of another program.
            let said = literal.replace("llama-gguf-split --merge", "");
            // A run that ends says which command continues it.
            let said = if name.starts_with("run") { said.split("zotune ").next().unwrap_or_default() } else { &said };
            assert!(!has_flag(said), "{}: {literal:?} names a flag; write `name`, as in a config file", name.display());
        }
    }
    assert!(count > 2000, "{count} texts");
    Ok(())
}
