//! Methods: which gradients they use, their options and defaults.

use anyhow::Result;

use super::optimizer::Optimizer;
use super::selection::Selection;
use super::settings::{Distribution, Preset, Settings, Sides};
use crate::params::Params;

/// Options of the two-point estimator.
pub(super) const TWO_POINT: &[&str] = &["perturbation-mode", "num-directions", "distribution", "zo-eps"];

/// The gradients that a method uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Function values only.
    Zeroth,
    /// A backward pass for the weights in `--fo-params`, function values for the others.
    Mixed,
    /// A backward pass only.
    First,
}

/// Defaults of a method's two-point estimator. `zo_eps` None: the radius for the model's size.
#[derive(Clone, Copy, Debug)]
pub struct Smoothing {
    sides: Sides,
    distribution: Distribution,
    num_directions: usize,
    zo_eps: Option<f64>,
}

/// The default learning rate.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rate {
    /// A multiple of [`zo_sgd_rate`].
    Estimated(f64),
    /// Independent of the number of weights and of steps.
    Fixed(f64),
}

/// ZO-SGD's default learning rate for a run of `max_steps` that trains d weights: 0.175 / (d^(1/3) max_steps^(1/2)).
///
/// The estimate's variance grows with d, and a run takes a rate for as long as the weights' random walk, which grows with the
/// root of the steps, does no harm. The exponents and the factor are fitted (docs/results.md): 5e-5 for 2.6 M weights and 600
/// steps, 2e-6 for 350 M and 5e-7 for 13 billion and 20,000 steps, where MeZO uses 1e-6, and 1e-7 to 1e-6.
fn zo_sgd_rate(d: usize, max_steps: u64) -> f64 {
    0.175 / ((d.max(1) as f64).cbrt() * (max_steps.max(1) as f64).sqrt())
}

/// Groups of option names, as flags without dashes.
type OptionNames = &'static [&'static [&'static str]];

/// Constructor of a method, from settings completed by [`Method::resolve`].
type Make = fn(&Settings, &Params) -> Result<Optimizer>;

/// MeZO's estimator.
pub(super) const GAUSSIAN: Smoothing =
    Smoothing { sides: Sides::Two, distribution: Distribution::Gaussian, num_directions: 1, zo_eps: None };
/// The estimator of R-AdaZO's experiments, for R-AdaZO and the methods it compares with.
pub(super) const SPHERE_Q10: Smoothing =
    Smoothing { sides: Sides::One, distribution: Distribution::Sphere, num_directions: 10, zo_eps: Some(5e-3) };
/// VAMO's estimator.
pub(super) const SPHERE: Smoothing =
    Smoothing { sides: Sides::One, distribution: Distribution::Sphere, num_directions: 1, zo_eps: None };

/// A method: name, options, source, constructor.
#[derive(Clone, Copy)]
pub struct Method {
    /// The value of `--optimizer`.
    pub name: &'static str,
    /// Its options.
    options: OptionNames,
    /// The gradients it uses.
    pub order: Order,
    /// Default learning rate.
    rate: Rate,
    /// Whether its step has a length of its own, however long the gradient is.
    pub is_normalised: bool,
    /// Paper.
    pub source: &'static str,
    /// Defaults of the two-point estimator with `--preset code` (the default) and with `--preset paper`.
    smoothing: [Smoothing; 2],
    /// Memory of its snapshots of the whole training set.
    snapshot_cost: SnapshotCost,
    make: Make,
}

/// Memory that a snapshot of the whole training set takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum SnapshotCost {
    /// A few numbers at most.
    Nothing,
    /// q seeds, their Gram matrix, and one slope per direction and example.
    Slopes,
    /// A copy of the weights, and a gradient in f32.
    Copies,
}

impl Method {
    /// A zeroth-order method whose default learning rate is `multiple` times ZO-SGD's.
    pub(super) const fn zeroth(
        name: &'static str,
        source: &'static str,
        multiple: f64,
        options: OptionNames,
        make: Make,
    ) -> Self {
        let (order, rate, snapshot_cost) = (Order::Zeroth, Rate::Estimated(multiple), SnapshotCost::Nothing);
        let (smoothing, is_normalised) = ([GAUSSIAN; 2], false);
        Method { name, source, rate, options, make, order, smoothing, snapshot_cost, is_normalised }
    }

    /// A method of first-order gradients for some weights or all, with default learning rate `rate`.
    pub(super) const fn mixed(
        name: &'static str,
        source: &'static str,
        rate: f64,
        options: OptionNames,
        make: Make,
    ) -> Self {
        Method { order: Order::Mixed, ..Self::first(name, source, rate, options, make) }
    }

    /// A method of first-order gradients only, with default learning rate `rate`.
    pub(super) const fn first(
        name: &'static str,
        source: &'static str,
        rate: f64,
        options: OptionNames,
        make: Make,
    ) -> Self {
        Method { order: Order::First, rate: Rate::Fixed(rate), ..Self::zeroth(name, source, 1.0, options, make) }
    }

    /// With these defaults of the two-point estimator.
    pub(super) const fn with_smoothing(self, smoothing: Smoothing) -> Self {
        Method { smoothing: [smoothing; 2], ..self }
    }

    /// With these defaults of the two-point estimator for `--preset paper`.
    pub(super) const fn with_paper_smoothing(self, smoothing: Smoothing) -> Self {
        Method { smoothing: [self.smoothing[0], smoothing], ..self }
    }

    /// With a step that does not get longer with the gradient.
    pub(super) const fn normalised(self) -> Self {
        Method { is_normalised: true, ..self }
    }

    /// With snapshots of this cost.
    pub(super) const fn with_snapshot_cost(self, snapshot_cost: SnapshotCost) -> Self {
        Method { snapshot_cost, ..self }
    }

    /// Its option names, as flags without dashes.
    pub fn options(&self) -> impl Iterator<Item = &'static str> {
        self.options.iter().flat_map(|group| group.iter().copied())
    }

    /// Whether the two-point estimate covers only weights without a first-order gradient. (VAMO's serves its snapshots.)
    fn estimates_remaining(&self) -> bool {
        self.order == Order::Mixed && matches!(self.snapshot_cost, SnapshotCost::Nothing)
    }

    /// Fails if an option was given that the method does not have, or does not use.
    pub fn check(&self, settings: &Settings) -> Result<()> {
        if self.estimates_remaining()
            && self.fo_params(settings) == Selection::All
            && let Some(knob) = settings.given()?.iter().find(|knob| TWO_POINT.contains(&knob.as_str()))
        {
            let name = knob.replace('-', "_");
            return Err(usage!(
                "`{name}`: {} with `fo_params all` estimates no gradient, so this option has no effect; give \
                 other `fo_params` too",
                self.name
            ));
        }
        match settings.given()?.iter().find(|knob| !self.options().any(|own| own == **knob)) {
            Some(knob) => {
                let name = knob.replace('-', "_");
                let options: Vec<String> = self.options().map(|own| format!("`{}`", own.replace('-', "_"))).collect();
                Err(usage!("`{name}` does not apply to {}; its options are: {}", self.name, options.join(", ")))
            }
            None => Ok(()),
        }
    }

    /// Whether a log of function values determines its estimates, as far as it needs no first-order gradient.
    pub fn replays(&self) -> bool {
        !matches!(self.snapshot_cost, SnapshotCost::Slopes)
    }

    /// The weights with a first-order gradient.
    pub fn fo_params(&self, settings: &Settings) -> Selection {
        match self.order {
            Order::Zeroth => Selection::None,
            Order::Mixed => settings.fo_params.clone().unwrap_or(Selection::All),
            Order::First => Selection::All,
        }
    }

    /// Fills in the defaults of the options the method uses: for `num_trained` weights with smoothing radius `zo_eps`,
    /// `num_estimated` of them without a first-order gradient, and epochs of `epoch` steps.
    pub fn resolve(&self, given: &Settings, zo_eps: f64, num_trained: usize, num_estimated: usize, epoch: u64) -> Settings {
        let mut settings = given.clone();
        let smoothing = self.smoothing[usize::from(given.preset == Some(Preset::Paper))];
        let num_weights = if self.estimates_remaining() { num_estimated } else { num_trained };
        if self.order != Order::First && num_weights > 0 {
            let distribution = *settings.distribution.get_or_insert(smoothing.distribution);
            settings.perturbation_mode.get_or_insert(smoothing.sides);
            settings.num_directions.get_or_insert(smoothing.num_directions);
            // On the sphere: the radius with the same step length as the Gaussian default.
            let default = match distribution {
                Distribution::Sphere => smoothing.zo_eps.unwrap_or(zo_eps * (num_weights as f64).sqrt()),
                _ => zo_eps,
            };
            settings.zo_eps.get_or_insert(default);
        }
        if self.order == Order::Mixed {
            settings.fo_params = Some(self.fo_params(given));
        }
        if self.options().any(|knob| knob == "snapshot-steps") {
            settings.snapshot_steps.get_or_insert(if self.order == Order::Zeroth { 10 } else { epoch });
        }
        settings
    }

    /// The default learning rate of a run of `max_steps` for `num_trained` weights, `num_estimated` of them without a
    /// first-order gradient. Those tolerate no more than ZO-SGD's rate, and a hybrid has one rate for all weights.
    pub fn learning_rate(&self, num_trained: usize, num_estimated: usize, max_steps: u64) -> f64 {
        match self.rate {
            Rate::Estimated(multiple) => multiple * zo_sgd_rate(num_trained, max_steps),
            Rate::Fixed(rate) if num_estimated > 0 => rate.min(zo_sgd_rate(num_estimated, max_steps)),
            Rate::Fixed(rate) => rate,
        }
    }

    /// The default learning rate as a formula in the number d of trained weights and the number T of steps.
    pub fn rate_formula(&self) -> String {
        const ZO_SGD: &str = "0.175 / (cbrt(d) sqrt(T))";
        match self.rate {
            Rate::Estimated(1.0) => ZO_SGD.into(),
            Rate::Estimated(multiple) => format!("{multiple} x {ZO_SGD}"),
            Rate::Fixed(rate) if self.order == Order::Mixed => {
                format!("{rate:e}; at most {ZO_SGD} if d weights have no first-order gradient")
            }
            Rate::Fixed(rate) => format!("{rate:e}"),
        }
    }

    /// Bytes of its snapshots, for `num_weights` trained weights of `size` bytes each and `num_examples` examples.
    pub fn snapshot_bytes(&self, settings: &Settings, num_weights: usize, size: usize, num_examples: usize) -> usize {
        let q = settings.max_directions.or(settings.num_directions).unwrap_or(1);
        match self.snapshot_cost {
            SnapshotCost::Nothing => 0,
            SnapshotCost::Slopes => 8 * (q + q * num_examples + q * q),
            SnapshotCost::Copies => num_weights * (size + 4),
        }
    }

    /// Constructs the method from resolved settings, for weights whose roles are set.
    pub fn make(&self, settings: &Settings, params: &Params) -> Result<Optimizer> {
        (self.make)(settings, params)
    }
}
