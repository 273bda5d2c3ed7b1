//! Makes the bindings where lvm2cmd.h and liblvm2cmd are there; elsewhere the crate is empty and says so.
//!
//! `ONGGI_LVM2CMD=off` makes it empty everywhere, to test what happens then.

use std::env;
use std::path::{Path, PathBuf};

const HEADER: &str = "lvm2cmd.h";
const LIBRARY: &str = "liblvm2cmd.so";
const SWITCH: &str = "ONGGI_LVM2CMD";

fn main() {
    emit("rustc-check-cfg=cfg(lvm2cmd_available)");
    for name in [SWITCH, "LIBRARY_PATH", "C_INCLUDE_PATH"] {
        emit(&format!("rerun-if-env-changed={name}"));
    }
    let available = match bindings() {
        Ok(()) => true,
        Err(reason) => {
            emit(&format!(
                "warning=LVM commands will run as processes: {reason}"
            ));
            false
        }
    };
    // Dependent build scripts read it as DEP_LVM2CMD_AVAILABLE.
    emit(&format!("metadata=available={available}"));
}

fn bindings() -> Result<(), String> {
    if env::var(SWITCH).is_ok_and(|value| value == "off") {
        return Err(format!("{SWITCH}=off"));
    }
    let header = find(
        HEADER,
        "C_INCLUDE_PATH",
        &["/usr/include", "/usr/local/include"],
    )?;
    let library = find(LIBRARY, "LIBRARY_PATH", &library_directories())?;
    emit(&format!("rerun-if-changed={}", header.display()));
    let out =
        PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo names no OUT_DIR")?).join("bindings.rs");
    // bindgen panics where libclang is missing; that is no reason to fail either.
    let generated = std::panic::catch_unwind(|| {
        bindgen::Builder::default()
            .header(header.to_string_lossy())
            .allowlist_function("lvm2_.*")
            .allowlist_var("LVM2_.*")
            .rust_edition(bindgen::RustEdition::Edition2024)
            .layout_tests(false)
            .generate()
    });
    let generated = match generated {
        Ok(outcome) => outcome.map_err(|error| error.to_string())?,
        Err(_panic) => return Err("libclang is missing (Debian: libclang-dev)".to_owned()),
    };
    generated
        .write_to_file(out)
        .map_err(|error| error.to_string())?;
    if let Some(directory) = library.parent() {
        emit(&format!("rustc-link-search=native={}", directory.display()));
    }
    emit("rustc-link-lib=dylib=lvm2cmd");
    emit("rustc-cfg=lvm2cmd_available");
    Ok(())
}

fn library_directories() -> Vec<String> {
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let mut directories = vec![
        format!("/usr/lib/{architecture}-linux-gnu"),
        format!("/lib/{architecture}-linux-gnu"),
    ];
    directories.extend(["/usr/lib64", "/lib64", "/usr/lib", "/usr/local/lib"].map(str::to_owned));
    directories
}

fn find(name: &str, variable: &str, directories: &[impl AsRef<Path>]) -> Result<PathBuf, String> {
    let given = env::var_os(variable).unwrap_or_default();
    let given: Vec<PathBuf> = env::split_paths(&given).collect();
    given
        .iter()
        .map(PathBuf::as_path)
        .chain(directories.iter().map(AsRef::as_ref))
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{name} is missing (Debian: liblvm2-dev)"))
}

fn emit(instruction: &str) {
    println!("cargo::{instruction}");
}
