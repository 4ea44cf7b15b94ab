//! Update rules: from a step's gradient to the weights. One file per method, named after it.

mod rule;
mod root;
mod adam;
mod meazo;
mod r_adazo;
mod sgd;
mod zo_adamm;
mod zo_rmsprop;
mod zo_sgd;
mod zo_sgd_momentum;
mod zo_sign;
mod zo_sign_scalar;

pub use adam::Adam;
pub use meazo::Meazo;
pub use r_adazo::RAdaZo;
pub use rule::{Rule, Streamed};
pub use sgd::Sgd;
pub use zo_adamm::ZoAdaMm;
pub use zo_rmsprop::ZoRmsProp;
pub use zo_sgd::ZoSgd;
pub use zo_sgd_momentum::ZoSgdMomentum;
pub use zo_sign::ZoSign;
pub use zo_sign_scalar::ZoSignScalar;

pub(super) use rule::{directional, fused};
