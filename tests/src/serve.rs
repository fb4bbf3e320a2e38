//! A server that answers in every way a probe may meet, one thread a connection.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Serves until it is killed.
///
/// # Panics
/// If it can't listen.
pub fn serve(port: u16) -> ! {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    println!("listening on {port}");
    loop {
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        let answering = std::thread::Builder::new().stack_size(64 << 10);
        let _ = answering.spawn(move || answer(stream, port));
    }
}

fn answer(mut stream: TcpStream, port: u16) {
    let mut request = [0; 1024];
    let length = stream.read(&mut request).unwrap_or(0);
    let request = String::from_utf8_lossy(&request[..length]);
    let path = request.split_whitespace().nth(1).unwrap_or("/");
    let head =
        |status: &str, more: &str| format!("HTTP/1.1 {status}\r\nconnection: close\r\n{more}\r\n");
    let redirect = |to: &str| {
        head(
            "302 Found",
            &format!("content-length: 0\r\nlocation: {to}\r\n"),
        )
    };
    let said = match path {
        "/hang" => {
            wait_for_end(&mut stream);
            return;
        }
        "/drip-head" => {
            drip(&mut stream, "HTTP/1.1 200 OK\r\nx-slow: ", "x");
            return;
        }
        "/drip" => {
            drip(
                &mut stream,
                &head("200 OK", "content-length: 100000\r\n"),
                "x",
            );
            return;
        }
        "/endless" => {
            let _ = stream.write_all(head("200 OK", "").as_bytes());
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
            return;
        }
        "/here" => redirect("/health"),
        "/here-in-full" => redirect(&format!("http://127.0.0.1:{port}/health")),
        "/away" => redirect("http://10.255.255.1/"),
        "/circle" => redirect("/circle"),
        "/to-nowhere" => redirect("/none"),
        "/none" => head("404 Not Found", "content-length: 0\r\n"),
        "/fail" => head("500 Internal Server Error", "content-length: 0\r\n"),
        "/garbage" => "no protocol at all\r\n\r\n".to_owned(),
        _ => head("200 OK", "content-length: 0\r\n"),
    };
    let _ = stream.write_all(said.as_bytes());
}

fn wait_for_end(stream: &mut TcpStream) {
    let mut rest = [0; 64];
    while stream.read(&mut rest).is_ok_and(|length| length > 0) {}
}

/// A byte now and then, until the other side has had enough.
fn drip(stream: &mut TcpStream, first: &str, then: &str) {
    let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
    let mut said = stream.write_all(first.as_bytes()).is_ok();
    while said {
        // Nothing comes, so this only lets the time pass.
        let _ = stream.read(&mut [0; 1]);
        said = stream.write_all(then.as_bytes()).is_ok();
    }
}
