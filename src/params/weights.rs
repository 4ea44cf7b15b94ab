//! Read access to the weights, at theta or at points near it, recorded or not.

use std::sync::Arc;

use anyhow::Result;

use super::leaf::Leaf;
use super::param::Param;
use super::points::Points;
use super::recorder::Recorder;
use super::role::{ParamId, Role};
use crate::device::{Activations, Array};

/// The weights for reading, with no moves pending.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    params: &'a [Param],
    recorder: Option<&'a Arc<Recorder>>,
    points: Option<&'a Arc<Points>>,
}

impl<'a> Weights<'a> {
    /// Requires that no moves are pending.
    pub(super) fn of(params: &'a [Param]) -> Self {
        Weights { params, recorder: None, points: None }
    }

    /// A weight at theta.
    pub fn get(&self, id: ParamId) -> &'a Array {
        &self.params[id.0].array
    }

    /// A weight as an operand, at the points and with the recorder of these weights.
    pub fn leaf(&self, id: ParamId) -> Leaf {
        let param = &self.params[id.0];
        let displaced = self
            .points
            .filter(|points| points.set().holds(param.role))
            .map(|points| points.of_weight(points.directions().iter().map(|&(d, seed)| param.key(d, seed)).collect()));
        Leaf::new(param.array.clone(), self.recorder, id, displaced)
    }

    /// The weights at these points. Activations then have one block of rows per point, in order.
    pub fn at(self, points: &'a Arc<Points>) -> Self {
        Weights { points: Some(points), ..self }
    }

    /// Number of points; 1 at theta.
    pub fn points(&self) -> usize {
        self.points.map_or(1, |points| points.count())
    }

    /// The weights at theta.
    pub fn at_theta(self) -> Self {
        Weights { points: None, ..self }
    }

    /// The weights for operations that are differentiated.
    pub fn recorded(self, recorder: &'a Arc<Recorder>) -> Self {
        Weights { recorder: Some(recorder), ..self }
    }

    /// The graph's root for operations without an input activation (embeddings). Operations on it are recorded if the
    /// weights have a recorder.
    pub fn root(&self) -> Result<Activations> {
        match self.recorder {
            Some(recorder) => Ok(Activations::Cpu(recorder.root())),
            None => Activations::new(vec![0.0], &[1]),
        }
    }

    /// A recorder for the weights with [`Role::Differentiated`].
    pub fn recorder(&self) -> Result<Arc<Recorder>> {
        let wanted = |p: &Param| (p.role == Role::Differentiated).then(|| p.array.len());
        Ok(Arc::new(Recorder::new(self.params.iter().map(wanted))?))
    }

    /// The source of a weight's gradient.
    pub fn role(&self, id: ParamId) -> Role {
        self.params[id.0].role
    }

    /// All weights in order, with their names.
    pub fn ids(&self) -> impl Iterator<Item = (ParamId, &'a str)> + use<'a> {
        self.params.iter().enumerate().map(|(i, p)| (ParamId(i), p.name.as_str()))
    }

    /// Names and arrays of the trained weights, in order.
    pub fn trained(&self) -> impl Iterator<Item = (&'a str, &'a Array)> + use<'a> {
        self.params.iter().filter(|p| p.role != Role::Frozen).map(|p| (p.name.as_str(), &*p.array))
    }

    /// Names and arrays of all weights, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Array)> + use<'a> {
        self.params.iter().map(|p| (p.name.as_str(), &*p.array))
    }
}
