//! The same over TLS, with a certificate of the test's own.

use std::net::{Ipv4Addr, TcpListener};

use redis::{Client, TlsCertificates};
use sessile_engine::store::Notice;

use super::*;
use crate::certificates::certificates;

#[test]
fn rows_and_news_travel_over_tls_and_a_stranger_is_not_trusted() {
    let Some(dir) = certificates() else { return };
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let args = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
        "--tls-auth-clients",
        "no",
    ];
    let Some(_server) = Server::start_with(None, &args) else { return };
    let url = format!("rediss://127.0.0.1:{port}/");
    let root = std::fs::read(file("ca.pem")).unwrap();
    let client = || {
        let trusted = TlsCertificates { client_tls: None, root_cert: Some(root.clone()) };
        Client::build_with_tls(url.as_str(), trusted).unwrap()
    };
    let store = RedisStore::builder_with(client()).connect().unwrap();
    let mut watch = block_on(store.watch()).unwrap();
    done(&store, &[insert(1, row(1))]);
    assert_eq!(load(&store, 1), Some(row(1)));
    assert!(soon(|| block_on(watch.next()).unwrap() == Notice::Changed(vec![id(1)])));

    // The system's roots do not know the authority of this test.
    assert!(RedisStore::connect(&url).is_err());
    // And no name but the one in the certificate is accepted.
    let elsewhere = url.replace("127.0.0.1", "localhost");
    let trusted = TlsCertificates { client_tls: None, root_cert: Some(root.clone()) };
    let client = Client::build_with_tls(elsewhere.as_str(), trusted).unwrap();
    assert!(RedisStore::builder_with(client).connect().is_err());
}

#[test]
fn the_nodes_of_a_cluster_are_reached_over_tls() {
    let Some(dir) = certificates() else { return };
    // The nodes' own channel is 10,000 above the port.
    let port = crate::cluster_server::free_port();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let args = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
        "--tls-auth-clients",
        "no",
        "--cluster-enabled",
        "yes",
        "--tls-cluster",
        "yes",
    ];
    let Some(server) = Server::start_with(None, &args) else { return };
    let _: String = server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    assert!(soon(|| server.ask::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok")));
    let trusted =
        TlsCertificates { client_tls: None, root_cert: Some(std::fs::read(file("ca.pem")).unwrap()) };
    let client = Client::build_with_tls(format!("rediss://127.0.0.1:{port}/"), trusted).unwrap();
    let store = RedisStore::builder_with_cluster([client]).connect().unwrap();
    let mut watch = block_on(store.watch()).unwrap();
    done(&store, &[insert(1, row(1))]);
    assert_eq!(load(&store, 1), Some(row(1)));
    assert!(soon(|| block_on(watch.next()).unwrap() == Notice::Changed(vec![id(1)])));
    assert!(RedisStore::connect(&format!("rediss+cluster://127.0.0.1:{port}")).is_err(), "a stranger");
}
