//! Hands on whether liblvm2cmd is there.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(lvm2cmd_available)");
    println!("cargo::rerun-if-env-changed=DEP_LVM2CMD_AVAILABLE");
    if std::env::var("DEP_LVM2CMD_AVAILABLE").is_ok_and(|value| value == "true") {
        println!("cargo::rustc-cfg=lvm2cmd_available");
    }
}
