//! What libtest does for programs that cannot have it, because they take roles.

/// Runs the tests whose names contain the first argument of the program, or all of them.
pub(crate) fn run_tests(tests: &[(&str, fn())]) {
    let filter = std::env::args().nth(1);
    let filter = filter.filter(|filter| !filter.starts_with('-'));
    let is_wanted = |name: &str| filter.as_ref().is_none_or(|filter| name.contains(filter));
    let mut passed = 0;
    for (name, test) in tests.iter().filter(|(name, _)| is_wanted(name)) {
        test();
        println!("test {name} ... ok");
        passed += 1;
    }
    println!("\ntest result: ok. {passed} passed; 0 failed");
}
