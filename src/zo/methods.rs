//! The table of methods: name, source, default learning rate, options, estimator and rule.

use super::estimators::two_point::two_point;
use super::estimators::{Backprop, Conservative, MezoSvrg, Svrg, Vamo};
use super::method::{Method, SPHERE, SPHERE_Q10, SnapshotCost, TWO_POINT};
use super::optimizer::Optimizer;
use super::rules::{
    Adam, Meazo, RAdaZo, Rule, Sgd, ZoAdaMm, ZoRmsProp, ZoSgd, ZoSgdMomentum, ZoSign, ZoSignScalar, directional, fused,
};
use super::settings::Settings;
use crate::base::text::nearest;

const FRESH: &[&str] = &["fresh-batch-per-direction"];
/// For methods whose paper and common code differ.
const PRESET: &[&str] = &["preset"];
const WARMUP: &[&str] = &["second-moment-warmup"];
const DECAY: &[&str] = &["weight-decay"];
const MOMENTUM: &[&str] = &["momentum", "state-dtype"];
const SECOND_MOMENT: &[&str] = &["beta2", "zeta", "state-dtype"];
const MOMENTS: &[&str] = &["beta1", "beta2", "zeta", "state-dtype"];
const SNAPSHOT: &[&str] = &["snapshot-steps"];
const FO_PARAMS: &[&str] = &["fo-params"];
const VAMO: &[&str] = &["alpha", "max-directions", "direction-tolerance", "fo-params"];

const MEZO: &str = "MeZO, Malladi et al. 2023, arXiv 2305.17333";
const ZO_BENCH: &str = "ZO-Bench, Zhang et al. 2024, arXiv 2402.11592";
const R_ADAZO: &str = "R-AdaZO, Shu et al. 2025, arXiv 2502.01014";
const ADAMM: &str = "Chen et al. 2019, as Algorithm 1 of arXiv 2502.01014";

/// The method of a run that names none.
pub const DEFAULT_METHOD: &str = "zo-sgd";

/// All methods, zeroth-order ones first. The number is the default learning rate: of `zeroth`, a multiple of ZO-SGD's
/// ([`Method::zeroth`]); of the others, absolute.
#[rustfmt::skip]
pub const METHODS: &[Method] = &[
    Method::zeroth("zo-sgd", MEZO, 1.0, &[TWO_POINT, FRESH, DECAY],
        |s, _| Ok(with_two_point(s, directional(ZoSgd, s)))),
    Method::zeroth("zo-sgd-momentum", ZO_BENCH, 0.05, &[TWO_POINT, FRESH, DECAY, MOMENTUM],
        |s, p| Ok(with_two_point(s, fused(ZoSgdMomentum::new(s), s, p)))),
    Method::zeroth("zo-sign", "ZO-signSGD, Liu et al. 2019, ICLR", 10.0, &[TWO_POINT, FRESH, DECAY],
        |s, p| Ok(with_two_point(s, fused(ZoSign, s, p)))).normalised(),
    Method::zeroth("zo-sign-scalar", ZO_BENCH, 10.0, &[TWO_POINT, FRESH, DECAY],
        |s, _| Ok(with_two_point(s, directional(ZoSignScalar, s)))).normalised(),
    Method::zeroth("zo-conservative", ZO_BENCH, 0.5, &[TWO_POINT],
        |s, _| Ok(Optimizer::new(Conservative::new(s), directional(ZoSgd, s)))),
    Method::zeroth("zo-rmsprop", R_ADAZO, 8.0, &[TWO_POINT, FRESH, PRESET, DECAY, SECOND_MOMENT, WARMUP],
        |s, p| Ok(with_two_point(s, fused(ZoRmsProp::new(s), s, p)))).with_paper_smoothing(SPHERE_Q10).normalised(),
    Method::zeroth("zo-adamm", ADAMM, 8.0, &[TWO_POINT, FRESH, PRESET, DECAY, MOMENTS, WARMUP, &["amsgrad"]],
        |s, p| Ok(with_two_point(s, ZoAdaMm::rule(s, p)))).with_paper_smoothing(SPHERE_Q10).normalised(),
    Method::zeroth("zo-adam", ZO_BENCH, 12.0, &[TWO_POINT, FRESH, DECAY, MOMENTS],
        |s, p| Ok(with_two_point(s, fused(Adam::new(s), s, p)))).normalised(),
    Method::zeroth("r-adazo", R_ADAZO, 3.0, &[TWO_POINT, FRESH, PRESET, DECAY, MOMENTS, WARMUP],
        |s, p| Ok(with_two_point(s, fused(RAdaZo::new(s), s, p)))).with_paper_smoothing(SPHERE_Q10).normalised(),
    Method::zeroth("meazo", "MEAZO, arXiv 2605.03869", 12.0, &[TWO_POINT, FRESH, DECAY, &["beta2", "zeta"]],
        |s, _| Ok(with_two_point(s, directional(Meazo::new(s), s)))).normalised(),
    Method::zeroth("mezo-svrg", "MeZO-SVRG, Gautam et al. 2024, arXiv 2404.08080", 0.15, &[TWO_POINT, SNAPSHOT],
        |s, _| Ok(Optimizer::new(MezoSvrg::new(s), directional(ZoSgd, s)))),
    Method::mixed("vamo", "VAMO, Chen and Ma 2025, arXiv 2505.13954", 1e-3, &[TWO_POINT, DECAY, SNAPSHOT, VAMO],
        |s, p| Ok(Optimizer::new(Vamo::new(s, p), fused(Sgd, s, p)))).with_smoothing(SPHERE).with_snapshot_cost(SnapshotCost::Slopes),
    Method::mixed("sgd", "Robbins and Monro 1951", 1e-3, &[TWO_POINT, DECAY, FO_PARAMS],
        |s, p| Ok(Optimizer::new(Backprop::new(s), fused(Sgd, s, p)))),
    Method::first("adamw", "Loshchilov and Hutter 2019, arXiv 1711.05101", 1e-5, &[DECAY, MOMENTS],
        |s, p| Ok(Optimizer::new(Backprop::new(s), fused(Adam::new(s), s, p)))),
    Method::first("svrg", "Johnson and Zhang 2013, NIPS", 1e-3, &[DECAY, SNAPSHOT],
        |s, p| Ok(Optimizer::new(Svrg::new(s, p)?, fused(Sgd, s, p)))).with_snapshot_cost(SnapshotCost::Copies),
];

/// A rule applied to the mini-batch's two-point estimate.
fn with_two_point(settings: &Settings, rule: Box<dyn Rule>) -> Optimizer {
    Optimizer::new(two_point(settings), rule)
}

/// The method with this name. Fails with a suggestion if there is none.
pub fn method(name: &str) -> anyhow::Result<&'static Method> {
    METHODS.iter().find(|m| m.name == name).ok_or_else(|| {
        let meant = match name {
            "mezo" => "MeZO's method is zo-sgd".into(),
            _ => nearest(name, METHODS.iter().map(|m| m.name)),
        };
        usage!("`optimizer`: there is no method \"{name}\": {meant}")
    })
}
