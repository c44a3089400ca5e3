//! What a command is done with, as it is printed: a line for each in text, an array in JSON.

use clap::Args;
use serde::Serialize;

use super::Format;
use crate::output;

/// How it is printed.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct DoneArguments {
    /// How to print; JSON is an array that comes when all is done
    #[arg(long, value_enum, default_value_t = Format::Text, conflicts_with = "quiet")]
    format: Format,

    /// Prints nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

/// One of the things that a command is done with.
pub(super) trait Line: Serialize {
    /// What is printed of it in text.
    fn line(&self) -> String;
}

/// Of which nothing but the name is to be said.
#[derive(Debug, Serialize)]
pub(super) struct Named {
    name: String,
}

impl Named {
    /// This one.
    pub(super) fn new(name: impl Into<String>) -> Named {
        Named { name: name.into() }
    }
}

impl Line for Named {
    fn line(&self) -> String {
        self.name.clone()
    }
}

/// Prints them.
#[derive(Debug)]
pub(super) struct Done<T> {
    arguments: DoneArguments,
    all: Vec<T>,
}

impl<T: Line> Done<T> {
    /// Nothing is done yet.
    pub(super) fn new(arguments: DoneArguments) -> Done<T> {
        Done {
            arguments,
            all: Vec::new(),
        }
    }

    /// One more is. In text it is printed at once.
    ///
    /// # Errors
    /// When it cannot be printed.
    pub(super) fn add(&mut self, one: T) -> anyhow::Result<()> {
        match self.arguments.format {
            Format::Text if self.arguments.quiet => {}
            Format::Text => output::print(&format!("{}\n", one.line()))?,
            Format::Json => self.all.push(one),
        }
        Ok(())
    }

    /// There are no more.
    ///
    /// # Errors
    /// When they cannot be printed.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        match self.arguments.format {
            Format::Text => Ok(()),
            Format::Json => output::print(&output::json(&self.all)?),
        }
    }
}
