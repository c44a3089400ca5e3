//! Registries that are asked through a proxy, and those that are not.

use super::*;

#[test]
fn registries_are_asked_through_the_proxy_and_this_machine_is_not() {
    let user = User::new();
    let pull = |image: &str, proxy: &TcpListener| {
        let address = format!("http://user:hunter2@{}", proxy.local_addr().unwrap());
        let mut pull = user.msb(&["pull", image]);
        pull.env("HTTPS_PROXY", &address)
            .env("http_proxy", &address);
        Killed(pull.stderr(Stdio::piped()).spawn().unwrap())
    };
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let _through = pull("registry.example.com/box", &proxy);
    let (connection, _) = proxy.accept().unwrap();
    let mut head = String::new();
    BufReader::new(&connection).read_line(&mut head).unwrap();
    assert_eq!(head, "CONNECT registry.example.com:443 HTTP/1.1\r\n");

    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    for image in ["127.0.0.1:1/box", "localhost:1/box"] {
        let mut beside = pull(image, &proxy);
        assert_eq!(beside.0.wait().unwrap().code(), Some(1));
        let errors = std::io::read_to_string(beside.0.stderr.take().unwrap()).unwrap();
        assert!(errors.contains("connection refused"), "{errors}");
    }
    assert!(proxy.accept().is_err(), "the proxy was asked");
}

/// The proxy and the registry are one here, and how it is spoken to tells what it is taken for.
#[test]
fn no_proxy_names_registries_that_are_asked_directly() {
    let user = User::new();
    let asked = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = asked.local_addr().unwrap();
    let first_byte = |image: &str, variable: &str, excepted: &str| {
        let mut pull = user.msb(&["pull", image]);
        for variable in ["no_proxy", "NO_PROXY"] {
            pull.env_remove(variable);
        }
        pull.env("HTTPS_PROXY", format!("http://{address}"))
            .env(variable, excepted);
        let _pull = Killed(pull.stderr(Stdio::null()).spawn().unwrap());
        let (mut connection, _) = asked.accept().unwrap();
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        byte[0]
    };
    // Linux takes a connection to 0.0.0.0 for one to itself.
    let image = format!("0.0.0.0:{}/box", address.port());
    // CONNECT, or a record with a handshake (RFC 8446, section 5.1).
    let (through, directly) = (b'C', 22);
    for variable in ["no_proxy", "NO_PROXY"] {
        let excepted = "example.org,0.0.0.0";
        assert_eq!(first_byte(&image, variable, excepted), directly);
        assert_eq!(first_byte(&image, variable, "example.org"), through);
        let other = "registry.example.org.example.com/box";
        assert_eq!(first_byte(other, variable, "example.org"), through);
    }
}
