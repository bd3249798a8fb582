"""Which boot of the outer machine each kvm_cc_test shares, where the host has no KVM (docs/testing.md)."""

# Groups of about the same length, since two run at once.
GROUPS = {
    "machines": [
        "//bench:memory_test",
        "//bench:mirror_bench_test",
        "//tests/faults:mirror_faults_test",
        "//tests/integration:arrival_test",
        "//tests/integration:balloon_test",
        "//tests/integration:dirty_tracking_test",
        "//tests/integration:hostile_description_test",
        "//tests/integration:lifecycle_test",
        "//tests/integration:memory_test",
        "//tests/integration:peer_bytes_test",
        "//tests/integration:save_load_test",
        "//tests/integration:scarcity_test",
        "//vmm/app:doctor_test",
        "//vmm/app:ferrite_test",
        "//vmm/app:hiding_test",
        "//vmm/kvm:kvm_test",
        "//vmm/machine:irq_line_test",
        "//vmm/machine:lost_page_test",
        "//vmm/machine:machine_disks_test",
        "//vmm/machine:machine_test",
        "//vmm/mirror:mirrors_test",
    ],
    "moves": [
        "//bench:move_bench_test",
        "//tests/faults:disk_move_faults_test",
        "//tests/integration:lost_page_move_test",
        "//tests/integration:move_failure_test",
        "//tests/integration:move_test",
        "//vmm/app:ferrite_disk_move_test",
        "//vmm/app:ferrite_move_failure_test",
        "//vmm/app:ferrite_move_test",
        "//vmm/app:other_user_test",
    ],
}
