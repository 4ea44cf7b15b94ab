//! A function in R^d, trained, logged, killed, resumed and replayed by the very code that trains a language model.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use candle_core::DType;
use serde_json::Value;
use zotune::base::Stop;
use zotune::config::{RawArgs, RunConfig};
use zotune::labs::numbers::flat;
use zotune::labs::{Lab, Trained};
use zotune::params::{ParamId, Params, Role};
use zotune::run::setup::{make_method, resolve_config};
use zotune::run::trajectory::{Header, Log, Trajectory};
use zotune::run::{Results, folder, replay, train};
use zotune::zo::{METHODS, Order, Workload, method};

use crate::support::LeastSquares;

fn lab() -> Trained<LeastSquares> {
    Trained(LeastSquares::new(12, 30, 4))
}

/// A run of so many steps by a method, with its config resolved for [`lab`].
fn config(run: &Path, optimizer: &str, max_steps: u64) -> Result<RunConfig> {
    let toml = format!(
        "optimizer = \"{optimizer}\"\nmodel = \"least-squares\"\nmax_steps = {max_steps}\nbatch_size = 4\nseed = 2\n\
         eval_steps = 50\nsave_steps = 70\nlogging_steps = 20\nlearning_rate = 0.002\n"
    );
    let mut config = RunConfig::check(RawArgs::from_toml(&toml, "a test")?)?;
    config.output_dir = run.into();
    Ok(config)
}

/// The weights that the method trains, roles assigned, and the config resolved for them.
fn start(config: &mut RunConfig) -> Result<Params> {
    let mut params = lab().start(DType::F32, 0)?;
    let role = if method(&config.optimizer)?.order == Order::Zeroth { Role::Estimated } else { Role::Differentiated };
    let ids: Vec<ParamId> = params.ids().map(|(id, _)| id).collect();
    ids.into_iter().for_each(|id| params.set_role(id, role));
    let estimated = if role == Role::Estimated { 30 } else { 0 };
    resolve_config(config, None, 30, estimated, 12)?;
    Ok(params)
}

/// Begins the run in a folder, or goes on with the one that is there.
fn run(folder: &Path, optimizer: &str, max_steps: u64) -> Result<Results> {
    let (lab, mut config) = (lab(), config(folder, optimizer, max_steps)?);
    let mut params = start(&mut config)?;
    let mut optimizer = make_method(&config, &mut params)?;
    let mut log = if folder.join("trajectory.bin").is_file() {
        let mut log = Log::resume(folder)?;
        log.trajectory().header.check_continues(&mut params, &lab)?;
        folder::go_on(&mut config, &mut log, &[])?;
        log
    } else {
        let header = Header::new(&config, "as tested", &lab, &mut params)?;
        folder::begin(&config, header, &Value::Null, &[])?
    };
    train(&config, &lab, &mut params, &mut optimizer, &mut log, &Stop::default(), zotune::run::Progress::hidden())
}

/// The weights and the function values of a run, as bytes.
fn bytes_of(folder: &Path) -> Result<(Vec<u8>, Vec<u8>)> {
    let trajectory = Trajectory::open(folder)?;
    let values = (1..=trajectory.steps()).flat_map(|step| trajectory.values(step).unwrap_or_default().to_vec());
    Ok((std::fs::read(folder.join("model.safetensors"))?, values.flat_map(f32::to_le_bytes).collect()))
}

/// Every method of the table trains it: the loss falls, a run that is cut and made longer is the uncut one, and replay makes its weights.
#[test]
fn every_method_trains_a_function_in_r_d() -> Result<()> {
    let place = tempfile::tempdir()?;
    for method in METHODS {
        let (whole, cut) = (place.path().join(method.name), place.path().join(format!("{}-cut", method.name)));
        let results = run(&whole, method.name, 200)?;
        ensure!(results.eval_loss < results.untrained_eval_loss, "{}: {} after training", method.name, results.eval_loss);
        run(&cut, method.name, 100)?;
        run(&cut, method.name, 200)?;
        ensure!(bytes_of(&whole)? == bytes_of(&cut)?, "{}: a run in two parts is another", method.name);

        let trajectory = Trajectory::open(&whole)?;
        let mut config = config(&whole, method.name, 200)?;
        let mut params = start(&mut config)?;
        let replayed = replay::replay(&trajectory, &mut params, trajectory.kept(), &mut |_| Ok(()));
        match trajectory.header.replays {
            true => {
                replayed?;
                let mut kept = lab().start(DType::F32, 0)?;
                let ids: Vec<ParamId> = kept.ids().map(|(id, _)| id).collect();
                ids.into_iter().for_each(|id| kept.set_role(id, Role::Estimated));
                lab().restore(&mut kept, &whole)?;
                assert_eq!(flat(params.settle()?)?, flat(kept.settle()?)?, "{}: replayed", method.name);
            }
            false => assert!(replayed.is_err(), "{}: first-order gradients are in no log", method.name),
        }
    }
    Ok(())
}

const CHILD: &str = "ZOTUNE_TEST_LAB_RUN";
const STEPS: u64 = 30_000;

/// The process that is killed: does nothing unless it is told where to run.
#[test]
fn a_child_that_trains_until_it_is_killed() -> Result<()> {
    match std::env::var_os(CHILD) {
        Some(folder) => run(&PathBuf::from(folder), "r-adazo", STEPS).map(drop),
        None => Ok(()),
    }
}

/// Killed with SIGKILL while it trains and resumed, until it is through: the bits of the run that nobody disturbed.
#[test]
fn a_run_of_a_function_in_r_d_survives_kills() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (whole, killed) = (place.path().join("whole"), place.path().join("killed"));
    run(&whole, "r-adazo", STEPS)?;
    let mut kills = 0;
    loop {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["labs::a_child_that_trains_until_it_is_killed", "--exact"])
            .env(CHILD, &killed)
            .stdout(Stdio::null())
            .spawn()?;
        let len = || std::fs::metadata(killed.join("trajectory.bin")).map_or(0, |log| log.len());
        let (before, start) = (len(), Instant::now());
        // Some way on, or at its end.
        let ended = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if kills < 5 && len() > before + 16 * STEPS / 20 {
                break None;
            }
            ensure!(start.elapsed() < Duration::from_secs(100), "the child hangs");
            std::thread::sleep(Duration::from_millis(1));
        };
        match ended {
            None => {
                child.kill()?;
                child.wait()?;
                kills += 1;
            }
            Some(status) => {
                ensure!(status.success(), "the child failed");
                break;
            }
        }
    }
    ensure!(kills > 0, "it was never killed");
    ensure!(bytes_of(&whole)? == bytes_of(&killed)?, "{kills} kills made another run of it");
    Ok(())
}
