//! A named context that is the result of another build: its vertices become vertices of this one, and
//! a stage on it goes on where that build ended.

use std::sync::Arc;

use rgraph_ir::{BuildPlan, Diagnostic, Edge, Platform, Span, Target, VertexId};

use super::draft::Ref;
use super::state::{History, StageState};

impl super::Cx<'_> {
    /// The state that the other build ended with.
    pub(super) fn linked_state(
        &mut self,
        plan: &BuildPlan,
        key: &str,
        platform: &Arc<Platform>,
        span: Span,
    ) -> Result<Box<StageState>, Box<Diagnostic>> {
        let target = of_platform(plan, platform).ok_or_else(|| {
            let has: Vec<String> = plan.targets.iter().map(|t| t.platform.to_string()).collect();
            let message = format!(
                "build context {key}: it is not built for {platform}, but for {}",
                has.join(", ")
            );
            Box::new(Diagnostic::error("build-context", span, message))
        })?;
        let at = self.import(plan, target);
        let place = |e: Edge| at.get(e.vertex.at()).copied().flatten();
        let mut st =
            Box::new(StageState::on(target.root.and_then(place), target.config.clone(), platform));
        for h in &target.history {
            st.history_size += h.created_by.len();
            st.history.push(History {
                created_by: h.created_by.clone(),
                layer: h.layer.and_then(place),
                span: h.span.unwrap_or(span),
            });
        }
        st.base = target.base.clone();
        Ok(st)
    }

    /// Drafts what a target of another plan needs, inputs first.
    fn import(&mut self, plan: &BuildPlan, target: &Target) -> Vec<Option<Ref>> {
        let mut wanted = vec![false; plan.graph.len()];
        let layers = target.history.iter().filter_map(|h| h.layer);
        for e in layers.chain(target.root) {
            wanted[e.vertex.at()] = true;
        }
        for at in (0..wanted.len()).rev() {
            if wanted[at] {
                for e in &plan.graph.vertex(VertexId(at as u32)).inputs {
                    wanted[e.vertex.at()] = true;
                }
            }
        }
        let mut places: Vec<Option<Ref>> = vec![None; wanted.len()];
        for (id, v) in plan.graph.iter() {
            if wanted[id.at()] {
                // What is wanted has its inputs, and lowering makes main results only.
                let inputs = v.inputs.iter().filter_map(|e| places[e.vertex.at()]).collect();
                let r = self.draft.add(v.op.clone(), inputs, v.platform.clone(), v.meta.clone());
                places[id.at()] = Some(r);
            }
        }
        places
    }
}

/// The target for a platform; the only one serves all.
fn of_platform<'p>(plan: &'p BuildPlan, platform: &Platform) -> Option<&'p Target> {
    if let [only] = &plan.targets[..] {
        return Some(only);
    }
    let want = platform.clone().normalize();
    plan.targets.iter().find(|t| t.platform.clone().normalize() == want)
}
