//! Containers beside steps (`--service`): what their images are, and which steps reach them.

use std::sync::Arc;

use rgraph_ir::image_config::{BaseImage, ContainerConfig};
use rgraph_ir::op::{ImageSource, NetworkMode, Op, Port, Service, ServiceRun, SourceOp};
use rgraph_ir::{Diagnostic, InputIndex, Platform, Severity, VertexMeta};

use super::Cx;
use super::draft::{Inputs, Ref};
use super::state::DEFAULT_PATH;
use crate::facts::Query;
use crate::options::ServiceOption;

/// A service that steps may reach.
pub(super) struct Beside {
    /// Its place in the options.
    at: usize,
    root: Ref,
    service: Service,
}

impl Cx<'_> {
    /// Finds out what the images of services are, as far as a stage that is needed may reach them.
    pub(super) fn resolve_services(&mut self, reachable: &[bool]) {
        if !self.services.is_empty() {
            return; // a second round, for triggers
        }
        let opts = self.opts;
        let mut found = Vec::new();
        for (at, option) in opts.services.iter().enumerate() {
            if !(0..self.nodes.len()).any(|n| reachable[n] && self.reaches(n, option)) {
                continue;
            }
            let platform = opts.build_platform.clone().normalize();
            let query = Query::ImageConfig {
                reference: option.image.to_string(),
                platform,
                mode: self.resolve_mode(),
            };
            match self.facts.get(&query) {
                Some(Ok(image)) => match self.beside(at, option, &image) {
                    Ok(beside) => found.push(beside),
                    Err(why) => self.diags.push(wrong(option, &why)),
                },
                Some(Err(why)) => self.diags.push(wrong(option, &why)),
                None => {
                    self.missing.insert(query);
                }
            }
        }
        self.services = found;
    }

    fn beside(
        &mut self,
        at: usize,
        option: &ServiceOption,
        image: &BaseImage,
    ) -> Result<Beside, String> {
        if image.layers == 0 {
            return Err("the image has no files".to_owned());
        }
        let run = run(option, &image.config.config);
        if run.args.is_empty() && !self.facts.is_offline() {
            return Err("the image names no program to start (ENTRYPOINT or CMD)".to_owned());
        }
        let digest = image.reference.split_once('@').map(|(_, digest)| digest);
        let service = Service {
            name: option.name.clone(),
            // Another one for each step.
            root: InputIndex(0),
            image: digest.unwrap_or(&image.reference).to_owned(),
            set: option.env.iter().map(|(k, v)| format!("{k}={v}")).collect(),
            run,
        };
        let source =
            ImageSource { reference: image.reference.clone(), resolve: self.resolve_mode() };
        let meta = VertexMeta {
            name: format!(
                "[service {}] {}",
                option.name,
                image.reference.trim_start_matches("docker.io/library/")
            ),
            ..VertexMeta::default()
        };
        let platform: Arc<Platform> = Arc::new(self.opts.build_platform.clone());
        let op = Op::Source(SourceOp::Image(source));
        let root = self.draft.add(op, Vec::new(), Some(platform), meta);
        Ok(Beside { at, root, service })
    }

    /// The services that a step of `node` reaches, with their roots among its inputs. One without the
    /// usual network reaches none.
    pub(super) fn services_of(
        &self,
        node: usize,
        network: NetworkMode,
        inputs: &mut Inputs,
    ) -> Vec<Service> {
        if network != NetworkMode::Default {
            return Vec::new();
        }
        let reached =
            self.services.iter().filter(|b| self.reaches(node, &self.opts.services[b.at]));
        reached.map(|b| Service { root: inputs.index(b.root), ..b.service.clone() }).collect()
    }

    fn reaches(&self, node: usize, option: &ServiceOption) -> bool {
        let Some(stage) = self.nodes[node].stage else { return false };
        let is_it = |wanted: &String| match &stage.name {
            Some(name) if name.eq_ignore_ascii_case(wanted) => true,
            _ => wanted.parse().is_ok_and(|n: usize| {
                self.ast.stages.get(n).is_some_and(|s| std::ptr::eq(s, stage))
            }),
        };
        option.stages.is_empty() || option.stages.iter().any(is_it)
    }
}

fn wrong(option: &ServiceOption, why: &str) -> Diagnostic {
    let message = format!("service {}: {}: {why}", option.name, option.image);
    Diagnostic::new(Severity::Error, "service", None, message)
}

/// How the container is started: as the image says, with what the caller set.
fn run(option: &ServiceOption, config: &ContainerConfig) -> ServiceRun {
    let mut env = config.clone();
    for (key, value) in &option.env {
        env.env_set(key, value);
    }
    if env.env_get(&DEFAULT_PATH.0).is_none() {
        env.env_set(&DEFAULT_PATH.0, &DEFAULT_PATH.1);
    }
    let exposed = || config.exposed_ports.iter().filter_map(|p| Port::parse(p)).collect();
    let words = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    ServiceRun {
        args: [words(&config.entrypoint), words(&config.cmd)].concat(),
        env: env.env.iter().map(|(k, v)| format!("{k}={v}")).collect(),
        cwd: if config.working_dir.is_empty() { "/".into() } else { config.working_dir.clone() },
        user: config.user.clone(),
        ports: option.ports.clone().unwrap_or_else(exposed),
        patience: option.patience,
    }
}
