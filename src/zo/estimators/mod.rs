//! Gradient estimators, one file each.

pub mod two_point;
mod backprop;
mod mezo_svrg;
mod svrg;
mod vamo;
mod zo_conservative;

pub use backprop::Backprop;
pub use mezo_svrg::MezoSvrg;
pub use svrg::Svrg;
pub use two_point::TwoPoint;
pub use vamo::Vamo;
pub use zo_conservative::Conservative;
