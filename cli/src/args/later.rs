//! Commands of the contract that nobody wrote yet: known names, so that they are refused as such
//! and not as typos.

use std::ffi::OsString;

use clap::{Args, Subcommand};

/// Whatever follows the name.
#[derive(Debug, Args)]
pub struct Rest {
    /// Words that are not looked at.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub words: Vec<OsString>,
}

macro_rules! later {
    ($($(#[$attr:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// A command that is not built yet.
        #[derive(Debug, Subcommand)]
        #[command(defer = true)]
        pub enum Later {
            $(
                #[doc = concat!("`", $name, "`: not supported yet")]
                #[command(name = $name, hide = true, disable_help_flag = true)]
                $variant(Rest),
            )*
        }

        impl Later {
            /// The name as typed.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }
        }
    };
}

later! {
    Analyze = "analyze",
    Config = "config",
    Network = "network",
    Report = "report",
    Watch = "watch",
}
