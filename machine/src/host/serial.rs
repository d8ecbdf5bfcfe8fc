//! Where a serial port leads: the terminal, a file, a socket, nowhere.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::error::{UserError, why, words};
use crate::host::{files, terminal};

/// The argument of `--serial`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// stdin and stdout.
    Stdio,
    /// Nowhere.
    Null,
    /// Output into a file, which is overwritten.
    File(PathBuf),
    /// A TCP port on which we listen, `ADDR:PORT`.
    Tcp(String),
    /// A Unix-domain socket on which we listen.
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("`{s}` is none of stdio, null, file:F, tcp:ADDR:PORT, unix:F");
        match s.split_once(':') {
            None if s == "stdio" => Ok(Self::Stdio),
            None if s == "null" => Ok(Self::Null),
            Some(("file", f)) if !f.is_empty() => Ok(Self::File(f.into())),
            Some(("unix", f)) if !f.is_empty() => Ok(Self::Unix(f.into())),
            Some(("tcp", a)) if a.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok()) => Ok(Self::Tcp(a.into())),
            _ => Err(bad()),
        }
    }
}

/// Bytes that wait for the guest before their source is made to wait: chunks of at most 4 KiB.
const CHUNKS: usize = 64;
/// Bytes of output that are kept for a socket that nobody has connected to yet.
const BACKLOG: usize = 256 << 10;

/// One serial port's other end.
pub struct Serial {
    /// Bytes for the guest. Disconnected when the source has ended.
    pub input: Receiver<Vec<u8>>,
    output: Output,
    /// Keys come from a raw terminal.
    pub interactive: bool,
}

enum Output {
    Stdout,
    Null,
    File(File, PathBuf),
    Socket(Arc<Mutex<Peer>>),
    /// The reader has gone.
    Gone,
}

/// The client of a socket, and what it has not got yet.
struct Peer {
    stream: Option<Box<dyn Write + Send>>,
    backlog: Vec<u8>,
}

impl Serial {
    /// Opens the target. With `read_stdin` false, stdin is left alone.
    ///
    /// # Errors
    /// [`UserError`] when the file or socket cannot be had.
    pub fn open(target: &Target, read_stdin: bool) -> Result<Self, UserError> {
        let (tx, input) = bounded(CHUNKS);
        let mut interactive = false;
        let output = match target {
            Target::Stdio => {
                if read_stdin {
                    interactive = rustix::termios::isatty(rustix::stdio::stdin());
                    spawn("stdin", move || pump(std::io::stdin(), &tx))?;
                }
                Output::Stdout
            }
            Target::Null => Output::Null,
            Target::File(path) => {
                let file = File::create(path).map_err(|e| UserError::file("serial log", path, &e))?;
                Output::File(file, path.clone())
            }
            Target::Tcp(addr) => {
                let listener = TcpListener::bind(addr).map_err(|e| {
                    let why = words(&e);
                    UserError(format!("--serial tcp:{addr}: {why}; give a free port, and an address of this host"))
                })?;
                let at = listener.local_addr().map_or_else(|_| addr.clone(), |a| a.to_string());
                terminal::say(&format!("the serial port listens on {at}"));
                let peer = Peer::shared();
                let shared = peer.clone();
                spawn("serial", move || {
                    let clients = listener.incoming().flatten().filter_map(|stream| {
                        // Keystrokes are small; a failure only costs latency.
                        let _ = stream.set_nodelay(true);
                        Some((stream.try_clone().ok()?, stream))
                    });
                    serve(clients, &shared, &tx);
                })?;
                Output::Socket(peer)
            }
            Target::Unix(path) => {
                let listener = bind_unix(path)?;
                terminal::say(&format!("the serial port listens on {}", path.display()));
                let peer = Peer::shared();
                let shared = peer.clone();
                spawn("serial", move || {
                    let clients = listener.incoming().flatten().filter_map(|stream| Some((stream.try_clone().ok()?, stream)));
                    serve(clients, &shared, &tx);
                })?;
                Output::Socket(peer)
            }
        };
        Ok(Self { input, output, interactive })
    }

    /// Hands on the guest's output, all of it, at once. False when the reader of stdout has gone for good.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        let result = match &mut self.output {
            Output::Stdout => write_all(&mut std::io::stdout().lock(), bytes),
            Output::File(file, _) => write_all(file, bytes),
            Output::Socket(peer) => {
                peer.lock().unwrap_or_else(PoisonError::into_inner).write(bytes);
                Ok(())
            }
            Output::Null => Ok(()),
            Output::Gone => return false,
        };
        if let Err(e) = result {
            match &self.output {
                Output::File(_, path) => {
                    log::error!("the serial log {} cannot be written: {e}", path.display())
                }
                _ if e.kind() == ErrorKind::BrokenPipe => {
                    log::info!("the reader of stdout has gone")
                }
                _ => log::error!("stdout cannot be written: {e}"),
            }
            self.output = Output::Gone;
            return false;
        }
        true
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), UserError> {
    match std::thread::Builder::new().name(name.into()).spawn(body) {
        Ok(_) => Ok(()),
        Err(e) => Err(UserError(format!("the host gives no thread for {name}: {e}"))),
    }
}

/// A listener at `path`; a socket that a dead run left there is replaced, one in use is not.
fn bind_unix(path: &Path) -> Result<UnixListener, UserError> {
    let failed = |e: std::io::Error| UserError(format!("cannot listen on {} for the serial port: {}", path.display(), why(&e)));
    if !path.exists() {
        files::creatable("socket for the serial port", path)?;
    }
    match UnixListener::bind(path) {
        Err(e) if e.kind() == ErrorKind::AddrInUse => {
            use std::os::unix::fs::FileTypeExt;
            let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
            let p = path.display();
            if !is_socket {
                return Err(UserError(format!("{p} is there already and is no socket; give another name with --serial unix:FILE")));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(UserError(format!("another program listens on {p}; end it, or give another name with --serial unix:FILE")));
            }
            std::fs::remove_file(path).map_err(failed)?;
            UnixListener::bind(path).map_err(failed)
        }
        other => other.map_err(failed),
    }
}

/// Connects clients, one after the other, each by an end to write to and one to read from.
fn serve<S: Read + Write + Send + 'static>(clients: impl Iterator<Item = (S, S)>, peer: &Mutex<Peer>, to: &Sender<Vec<u8>>) {
    for (writer, reader) in clients {
        Peer::connect(peer, Box::new(writer));
        pump(reader, to);
        Peer::disconnect(peer);
    }
}

/// Copies a source to the guest until it ends.
fn pump(mut from: impl Read, to: &Sender<Vec<u8>>) {
    let mut buf = [0; 4096];
    loop {
        match from.read(&mut buf) {
            Ok(0) => return,
            Ok(n) => {
                if to.send(buf[..n].to_vec()).is_err() {
                    return;
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(std::time::Duration::from_millis(5)),
            Err(_) => return,
        }
    }
}

/// `write_all` and flush that also survive a non-blocking stdout.
fn write_all(to: &mut impl Write, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(std::time::Duration::from_millis(1)),
            Err(e) => return Err(e),
        }
    }
    loop {
        match to.flush() {
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            done => return done,
        }
    }
}

impl Peer {
    fn shared() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { stream: None, backlog: Vec::new() }))
    }

    fn connect(shared: &Mutex<Self>, stream: Box<dyn Write + Send>) {
        let mut peer = shared.lock().unwrap_or_else(PoisonError::into_inner);
        peer.stream = Some(stream);
        let backlog = std::mem::take(&mut peer.backlog);
        peer.write(&backlog);
    }

    fn disconnect(shared: &Mutex<Self>) {
        shared.lock().unwrap_or_else(PoisonError::into_inner).stream = None;
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(stream) = &mut self.stream {
            if stream.write_all(bytes).is_ok() {
                return;
            }
            self.stream = None;
        }
        self.backlog.extend_from_slice(bytes);
        let extra = self.backlog.len().saturating_sub(BACKLOG);
        self.backlog.drain(..extra);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        assert_eq!("stdio".parse(), Ok(Target::Stdio));
        assert_eq!("file:/tmp/x:y".parse(), Ok(Target::File("/tmp/x:y".into())));
        assert_eq!("tcp:127.0.0.1:4000".parse(), Ok(Target::Tcp("127.0.0.1:4000".into())));
        for bad in ["", "file:", "tcp:host", "tcp:host:99999", "serial"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn socket_gets_the_backlog_and_answers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut serial = Serial::open(&Target::Unix(path.clone()), false).unwrap();
        assert!(serial.write(b"early "));
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.write_all(b"typed").unwrap();
        assert_eq!(serial.input.recv().unwrap(), b"typed");
        assert!(serial.write(b"late"));
        let mut got = [0; 10];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"early late");
    }
}
