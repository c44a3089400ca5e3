//! The command line of microsandbox.
fn main() {}
