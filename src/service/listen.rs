//! Where the service listens: a loopback address, and a Unix socket beside it where the configuration names one.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::ServiceError;
use crate::config::ServiceConfig;

/// What the service listens on.
#[derive(Debug)]
pub struct Listeners {
    /// The loopback address.
    pub tcp: TcpListener,
    /// The socket, where there is one.
    #[cfg(unix)]
    pub socket: Option<UnixSocket>,
}

impl From<TcpListener> for Listeners {
    fn from(tcp: TcpListener) -> Self {
        Self {
            tcp,
            #[cfg(unix)]
            socket: None,
        }
    }
}

impl Listeners {
    /// Binds everything that the configuration names.
    ///
    /// # Errors
    /// The address is not a loopback one, or taken; the socket cannot be made, or another service listens on it.
    pub async fn bind(config: &ServiceConfig) -> Result<Self, ServiceError> {
        let tcp = bind(config.listen).await?;
        if config.socket.as_os_str().is_empty() {
            return Ok(tcp.into());
        }
        #[cfg(unix)]
        return Ok(Self { tcp, socket: Some(UnixSocket::bind(&config.socket)?) });
        #[cfg(not(unix))]
        return Err(ServiceError::Socket {
            path: config.socket.clone(),
            source: std::io::Error::new(std::io::ErrorKind::Unsupported, "this system has no Unix sockets"),
        });
    }
}

/// Binds a loopback address.
///
/// # Errors
/// The address is not a loopback one, or taken.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServiceError> {
    if !address.ip().is_loopback() {
        return Err(ServiceError::NotLoopback(address));
    }
    Ok(TcpListener::bind(address).await?)
}

#[cfg(unix)]
pub use unix::UnixSocket;

#[cfg(unix)]
mod unix {
    use std::io::{Error, ErrorKind};
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use tokio::net::UnixListener;

    use crate::service::ServiceError;

    /// A Unix socket that this user alone may open; its file goes when it is dropped.
    #[derive(Debug)]
    pub struct UnixSocket {
        path: PathBuf,
        pub(in crate::service) listener: Option<UnixListener>,
    }

    impl UnixSocket {
        /// Binds it. A file that a service left behind is replaced; one that a service listens on is not.
        ///
        /// # Errors
        /// Another service listens there, something else lies there, or the socket cannot be made.
        pub fn bind(path: &Path) -> Result<Self, ServiceError> {
            let fail = |source| ServiceError::Socket { path: path.to_owned(), source };
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(fail(Error::new(ErrorKind::AddrInUse, "another service listens on it")));
            }
            if let Ok(found) = path.symlink_metadata() {
                use std::os::unix::fs::FileTypeExt;
                if !found.file_type().is_socket() {
                    return Err(fail(Error::new(ErrorKind::AlreadyExists, "it is there, and no socket")));
                }
            }
            // Nobody may connect before its rights are set: it gets its name after them.
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{}", std::process::id()));
            let unnamed = PathBuf::from(name);
            let _ = std::fs::remove_file(&unnamed);
            let listener = UnixListener::bind(&unnamed).map_err(fail)?;
            let named = std::fs::set_permissions(&unnamed, std::fs::Permissions::from_mode(0o600))
                .and_then(|()| std::fs::rename(&unnamed, path));
            if let Err(error) = named {
                let _ = std::fs::remove_file(&unnamed);
                return Err(fail(error));
            }
            Ok(Self { path: path.to_owned(), listener: Some(listener) })
        }

        /// Its file.
        pub fn path(&self) -> &Path {
            &self.path
        }
    }

    impl Drop for UnixSocket {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn it_is_this_users_alone_and_goes_with_its_service() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("apical.sock");
            let socket = UnixSocket::bind(&path).unwrap();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            let second = UnixSocket::bind(&path).unwrap_err().to_string();
            assert!(second.contains("apical.sock") && second.contains("another service listens on it"), "{second}");
            drop(socket);
            assert!(!path.exists());
        }

        #[tokio::test]
        async fn what_a_crash_left_is_replaced_and_anything_else_is_not() {
            let folder = tempfile::tempdir().unwrap();
            let (left, file) = (folder.path().join("left.sock"), folder.path().join("file"));
            drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
            assert!(left.exists() && UnixSocket::bind(&left).is_ok());
            std::fs::write(&file, "mine").unwrap();
            let refused = UnixSocket::bind(&file).unwrap_err().to_string();
            assert!(refused.contains("no socket"), "{refused}");
            assert_eq!(std::fs::read(&file).unwrap(), b"mine");
        }
    }
}
