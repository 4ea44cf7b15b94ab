//! The weights as readers have them: as they stand or at points near them, recorded or not.

use std::sync::Arc;

use anyhow::Result;

use super::leaf::Leaf;
use super::param::Param;
use super::points::Points;
use super::recorder::Recorder;
use super::role::{ParamId, Role};
use crate::device::{Activations, Array};

/// The weights as they stand, nothing pending. What models read through.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    params: &'a [Param],
    recorder: Option<&'a Arc<Recorder>>,
    points: Option<&'a Arc<Points>>,
}

impl<'a> Weights<'a> {
    /// Of these, nothing pending.
    pub(super) fn of(params: &'a [Param]) -> Self {
        Weights { params, recorder: None, points: None }
    }

    /// A weight as it stands.
    pub fn get(&self, id: ParamId) -> &'a Array {
        &self.params[id.0].array
    }

    /// A weight as an operation reads it: with the place where its gradient goes, if one is wanted.
    pub fn leaf(&self, id: ParamId) -> Leaf {
        let param = &self.params[id.0];
        let displaced = self
            .points
            .filter(|points| points.set().holds(param.role))
            .map(|points| points.of_weight(points.directions().iter().map(|&(d, seed)| param.key(d, seed)).collect()));
        Leaf::new(param.array.clone(), self.recorder, id, displaced)
    }

    /// The same weights, read at these points. Activations then stand for all points, one stretch of rows after the other.
    pub fn at(self, points: &'a Arc<Points>) -> Self {
        Weights { points: Some(points), ..self }
    }

    /// How many points the weights are read at: 1 where they are read as they stand.
    pub fn points(&self) -> usize {
        self.points.map_or(1, |points| points.count())
    }

    /// The same weights, read as they stand.
    pub fn as_they_stand(self) -> Self {
        Weights { points: None, ..self }
    }

    /// The same weights, read by operations that are to be differentiated.
    pub fn recorded(self, recorder: &'a Arc<Recorder>) -> Self {
        Weights { recorder: Some(recorder), ..self }
    }

    /// What a graph grows from that has no activation to grow from: embeddings. Any operation on it is recorded if the
    /// weights are.
    pub fn root(&self) -> Result<Activations> {
        match self.recorder {
            Some(recorder) => Ok(Activations::Cpu(recorder.root())),
            None => Activations::new(vec![0.0], &[1]),
        }
    }

    /// A recorder for the weights that are to be differentiated.
    pub fn recorder(&self) -> Result<Arc<Recorder>> {
        let wanted = |p: &Param| (p.role == Role::Differentiated).then(|| p.array.len());
        Ok(Arc::new(Recorder::new(self.params.iter().map(wanted))?))
    }

    /// Where a weight's gradient comes from.
    pub fn role(&self, id: ParamId) -> Role {
        self.params[id.0].role
    }

    /// All weights in order, with their names.
    pub fn ids(&self) -> impl Iterator<Item = (ParamId, &'a str)> + use<'a> {
        self.params.iter().enumerate().map(|(i, p)| (ParamId(i), p.name.as_str()))
    }

    /// Names and tensors of those that are trained, in order.
    pub fn trained(&self) -> impl Iterator<Item = (&'a str, &'a Array)> + use<'a> {
        self.params.iter().filter(|p| p.role != Role::Frozen).map(|p| (p.name.as_str(), &*p.array))
    }

    /// Names and tensors in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Array)> + use<'a> {
        self.params.iter().map(|p| (p.name.as_str(), &*p.array))
    }
}
