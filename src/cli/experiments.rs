//! The table of built-in experiments.

use clap::builder::PossibleValue;

use crate::report::Goal;

/// An experiment.
pub(super) struct Experiment {
    /// Its name.
    pub(super) name: &'static str,
    /// What it repeats.
    pub(super) about: &'static str,
    /// Its sweeps, in order.
    pub(super) parts: &'static [Part],
}

/// A sweep of an experiment.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// Its name, and its folder's in that of the experiment.
    pub(super) name: &'static str,
    /// Its file.
    pub(super) text: &'static str,
    /// The part, and the run of it, whose model this one is about.
    pub(super) model: Option<(&'static str, &'static str)>,
    /// Whether its runs' estimates are compared with true gradients.
    pub(super) aligned: bool,
    /// Losses whose cost the report compares.
    pub(super) to_loss: &'static [Goal],
    /// The group over which the report gives speed-ups.
    pub(super) baseline: Option<&'static str>,
}

const fn part(name: &'static str, text: &'static str) -> Part {
    Part { name, text, model: None, aligned: false, to_loss: &[], baseline: None }
}

/// Figure 1 of R-AdaZO, on a function.
const fn figure(name: &'static str, text: &'static str) -> Part {
    Part { to_loss: SHARES, baseline: Some("zo-rmsprop"), ..part(name, text) }
}

/// VAMO beside first-order methods.
const fn beside_sgd(name: &'static str, text: &'static str, to_loss: &'static [Goal]) -> Part {
    Part { to_loss, baseline: Some("sgd"), ..part(name, text) }
}

const SHARES: &[Goal] = &[Goal::Percent(50.0), Goal::Percent(10.0), Goal::Percent(1.0)];

const SUM: &[Goal] = &[Goal::Loss(0.12), Goal::Loss(0.102)];

/// All experiments.
pub(super) const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        name: "synthetic",
        about: "Figure 1 of R-AdaZO (arXiv 2502.01014): adaptive methods on four functions of 10,000 variables",
        parts: &[
            figure("quadratic", include_str!("../../configs/labs/quadratic.toml")),
            figure("cubic", include_str!("../../configs/labs/cubic.toml")),
            figure("levy", include_str!("../../configs/labs/levy.toml")),
            figure("rosenbrock", include_str!("../../configs/labs/rosenbrock.toml")),
        ],
    },
    Experiment {
        name: "moments",
        about: "Figure 2 of R-AdaZO: estimates and moments beside those of true gradients, over beta1",
        parts: &[Part { aligned: true, ..part("moments", include_str!("../../configs/labs/moments.toml")) }],
    },
    Experiment {
        name: "attack",
        about: "Table 1 of R-AdaZO: a black-box attack on images of MNIST, from the hub or --data FOLDER",
        parts: &[
            part("mnist-cnn", include_str!("../../configs/labs/mnist-cnn.toml")),
            Part {
                model: Some(("mnist-cnn", "cnn")),
                to_loss: &[Goal::Loss(0.0)],
                baseline: Some("zo-rmsprop"),
                ..part("attack", include_str!("../../configs/labs/attack.toml"))
            },
        ],
    },
    Experiment {
        name: "least-squares",
        about: "VAMO (arXiv 2505.13954) on a nonconvex finite sum, beside first-order and zeroth-order methods",
        parts: &[
            beside_sgd("least-squares", include_str!("../../configs/labs/least-squares.toml"), SUM),
            beside_sgd("vamo-ablations", include_str!("../../configs/labs/vamo-ablations.toml"), SUM),
            beside_sgd("vamo-budget", include_str!("../../configs/labs/vamo-budget.toml"), SUM),
        ],
    },
    Experiment {
        name: "mnist",
        about: "VAMO on a classifier of MNIST, beside first-order and zeroth-order methods",
        parts: &[beside_sgd("mnist", include_str!("../../configs/labs/mnist.toml"), &[Goal::Loss(0.5), Goal::Loss(0.2)])],
    },
];

/// The names that a command line offers.
pub(super) fn experiment_names() -> Vec<PossibleValue> {
    let parts = |experiment: &'static Experiment| {
        let other = experiment.parts.iter().filter(|part| part.name != experiment.name);
        other.map(|part| PossibleValue::new(part.name))
    };
    let names = |experiment: &'static Experiment| {
        std::iter::once(PossibleValue::new(experiment.name).help(experiment.about)).chain(parts(experiment))
    };
    EXPERIMENTS.iter().flat_map(names).collect()
}
