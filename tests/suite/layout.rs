//! The shape of the program: modules in reading order, and no file that is nobody's.

use std::path::Path;

use anyhow::Result;

/// The modules as src/lib.rs lists them.
fn modules() -> Result<Vec<String>> {
    let lib = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"))?;
    Ok(lib.lines().filter_map(|l| Some(l.strip_prefix("pub mod ")?.strip_suffix(';')?.to_string())).collect())
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

#[test]
fn a_module_uses_only_what_stands_above_it() -> Result<()> {
    let modules = modules()?;
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files)?;
    let mut checked = 0;
    for file in &files {
        let inside = file.strip_prefix(&src)?;
        let own = inside.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_string();
        let Some(place) = modules.iter().position(|m| *m == own) else { continue };
        let text = std::fs::read_to_string(file)?;
        for (i, line) in text.lines().enumerate() {
            assert!(
                !line.contains("crate::{"),
                "{}, line {}: one use a module, so that it can be checked",
                inside.display(),
                i + 1
            );
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if let Some(other) = modules.iter().position(|m| *m == used) {
                    assert!(
                        other <= place,
                        "{}, line {}: {own} uses {used}, which stands below it",
                        inside.display(),
                        i + 1
                    );
                    checked += 1;
                }
            }
        }
    }
    assert!(modules.len() > 10 && files.len() > 20 && checked > 40, "{} modules, {checked} uses", modules.len());
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
        // Variables are activations only: block inputs in a graph.
        let variables = if file.ends_with("model/backward.rs") { "VarMap" } else { "Var::" };
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
                let knobs = zotune::config::Knobs::from_toml(&std::fs::read_to_string(&path)?, &place)?;
                let plan = zotune::config::Plan::check(knobs)?;
                zotune::optim::method(&plan.optimizer)?.check(&plan.settings)?;
                if folder == "configs/methods" {
                    assert_eq!(path.file_stem().and_then(|s| s.to_str()), Some(plan.optimizer.as_str()));
                }
                zotune::task::Task::of(plan.inputs.task.as_deref(), None)?;
            } else {
                zotune::task::Task::open(&place)?;
            }
            counts[n] += 1;
        }
    }
    println!("{} configs and {} tasks load", counts[0], counts[1]);
    assert!(counts[0] >= 2 + zotune::optim::METHODS.len() && counts[1] == zotune::task::BUILTIN.len(), "{counts:?}");
    Ok(())
}
