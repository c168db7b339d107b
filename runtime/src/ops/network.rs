//! Which network a step gets. Decided once per build, by the first step that says nothing itself.

use rgraph_ir::op::NetworkMode;
use rgraph_ir::request::NetworkFallback;
use rgraph_solver::{TaskCx, TaskError};

use crate::sandbox::{Network, NoNetwork};
use crate::worker::{LocalWorker, report};

/// Why steps that say nothing about their network cannot run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NetworkError {
    /// There is none, and nothing is to take its place.
    #[error(
        "steps cannot have a network of their own here: {why}: {help}--network host or none on \
         the command line chooses another, network.fallback in the config file too",
        help = help(why)
    )]
    None {
        /// Why.
        #[source]
        why: NoNetwork,
    },
    /// The process that makes steps is in trouble.
    #[error("{0}")]
    Runner(String),
}

fn help(why: &NoNetwork) -> String {
    if why.help.is_empty() { String::new() } else { format!("{}; ", why.help) }
}

/// The network of a step of this mode.
pub fn of_step(
    w: &LocalWorker<'_>,
    mode: NetworkMode,
    cx: &TaskCx<'_>,
) -> Result<Network, TaskError> {
    match mode {
        NetworkMode::Host => Ok(Network::Host),
        NetworkMode::None => Ok(Network::None),
        NetworkMode::Default => {
            let runner = w.runner()?;
            let decide = || {
                let connected = runner.connect().map_err(|e| NetworkError::Runner(report(&e)))?;
                instead(connected, w.request.network_fallback, &|text| cx.warn(text))
            };
            w.network.get_or_init(decide).clone().map_err(TaskError::failed)
        }
    }
}

/// What steps get: the private network when there is one, and what the config says otherwise.
pub(crate) fn instead(
    connected: Result<Vec<String>, NoNetwork>,
    fallback: NetworkFallback,
    warn: &dyn Fn(String),
) -> Result<Network, NetworkError> {
    let (network, words) = match (&connected, fallback) {
        (Ok(_), _) => (Network::Private, ""),
        (Err(_), NetworkFallback::Host) => (Network::Host, "the host's network, its loopback too"),
        (Err(_), NetworkFallback::None) => (Network::None, "no network"),
        (Err(why), NetworkFallback::Error) => {
            return Err(NetworkError::None { why: why.clone() });
        }
    };
    match connected {
        Ok(notes) => notes.into_iter().for_each(warn),
        Err(why) => {
            let help = help(&why);
            warn(format!(
                "steps get {words}, for they cannot have one of their own: {why}: {help}\
                 network.fallback in the config file chooses what they get"
            ));
        }
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn what_takes_the_place_of_a_private_network() {
        let why = || NoNetwork { cause: "no nf_tables".into(), help: "get them".into() };
        for (connected, fallback, network, said) in [
            (Ok(vec![]), NetworkFallback::Error, Some(Network::Private), None),
            (
                Ok(vec!["changed".to_owned()]),
                NetworkFallback::Host,
                Some(Network::Private),
                Some("changed"),
            ),
            (
                Err(why()),
                NetworkFallback::Host,
                Some(Network::Host),
                Some(
                    "steps get the host's network, its loopback too, for they cannot have one of their own: no nf_tables: get them; network.fallback",
                ),
            ),
            (
                Err(why()),
                NetworkFallback::None,
                Some(Network::None),
                Some("steps get no network, for"),
            ),
            (Err(why()), NetworkFallback::Error, None, None),
        ] {
            let warnings = RefCell::new(Vec::new());
            let got = instead(connected, fallback, &|text| warnings.borrow_mut().push(text));
            let warnings = warnings.into_inner();
            assert_eq!(warnings.len(), usize::from(said.is_some()), "{warnings:?}");
            if let Some(said) = said {
                assert!(warnings[0].starts_with(said), "{warnings:?}");
            }
            match (got, network) {
                (Ok(got), Some(want)) => assert_eq!(got, want),
                (Err(e), None) => {
                    assert!(e.to_string().contains("no nf_tables: get them; "), "{e}")
                }
                (got, want) => panic!("{got:?} instead of {want:?}"),
            }
        }
    }
}
