// swift-tools-version: 6.2
// vmtape: records the run of a KVM guest, replays it exactly, finds where two runs part.
// The arrows between targets point one way (ARCHITECTURE.md, "Code map"); a new arrow that
// points back is a design error, not a missing entry here.
import PackageDescription

/// Every target of ours is held to the same rules; dependencies are not ours to judge.
let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

func module(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: strict)
}

func tests(
    _ name: String, _ dependencies: [Target.Dependency] = [], exclude: [String] = []
) -> Target {
    .testTarget(
        name: "\(name)Tests", dependencies: [.target(name: name)] + dependencies,
        exclude: exclude, swiftSettings: strict)
}

let package = Package(
    name: "vmtape",
    products: [
        .executable(name: "vmtape", targets: ["vmtape"]),
        .library(name: "Trace", targets: ["Trace", "Machine"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0")
    ],
    targets: [
        // C shims and system libraries: declarations and request numbers, nothing else.
        .target(name: "CKVM"),
        .systemLibrary(name: "CLZ4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
        .systemLibrary(
            name: "CElf", pkgConfig: "libdw", providers: [.apt(["libelf-dev", "libdw-dev"])]),
        .systemLibrary(
            name: "CXXHash", pkgConfig: "libxxhash", providers: [.apt(["libxxhash-dev"])]),
        .systemLibrary(name: "CDemangle"),
        .systemLibrary(name: "CZydis", providers: [.apt(["libzydis-dev"])]),
        .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),

        // Leaves.
        module("Machine"),
        module("Threads"),
        module("Disassembly", ["CZydis", "Machine"]),

        // Middle: each knows one world and none of the others.
        module("KVM", ["CKVM", "Machine"]),
        module("Trace", ["CLZ4", "CXXHash", "Machine", "Threads"]),
        module("Guest", ["CElf", "CZlib", "CXXHash", "Machine"]),
        module("Devices", ["Machine", "Threads"]),
        module("GDBRemote", ["Machine", "Threads"]),
        module("Symbols", ["CDemangle", "CElf", "Disassembly", "Machine"]),

        // Top: what puts them together.
        module(
            "Execution",
            ["Devices", "Disassembly", "Guest", "KVM", "Machine", "Threads", "Trace"]),
        module("Analysis", ["Disassembly", "Machine", "Symbols", "Trace"]),
        .executableTarget(
            name: "vmtape",
            dependencies: [
                "Analysis", "Devices", "Disassembly", "Execution", "GDBRemote", "Guest", "KVM",
                "Machine", "Symbols", "Trace",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: strict),

        // What tools/ run.
        .executableTarget(
            name: "vmtape-bench",
            dependencies: ["Devices", "Execution", "Guest", "KVM", "Machine", "Trace"],
            swiftSettings: strict),
        .executableTarget(
            name: "vmtape-fuzz",
            dependencies: [
                "Analysis", "CXXHash", "GDBRemote", "Guest", "Machine", "Symbols", "Trace",
            ],
            swiftSettings: strict),

        // What tests share: files, child processes, pseudo-terminals.
        .target(name: "TestSupport", path: "Tests/Support", swiftSettings: strict),
        tests("Machine"),
        tests("Threads"),
        tests("KVM", ["Machine", "TestSupport", "Threads"]),
        tests("Disassembly", ["Machine", "TestSupport"]),
        tests("Trace", ["Machine", "TestSupport", "Threads"]),
        tests("Guest", ["Machine", "TestSupport"]),
        tests("Devices", ["Machine", "Threads"]),
        tests("Symbols", ["Machine", "TestSupport"], exclude: ["Fixtures"]),
        tests(
            "Execution",
            [
                "Devices", "Disassembly", "Guest", "KVM", "Machine", "Symbols", "TestSupport",
                "Trace",
            ]),
        tests("Analysis", ["Machine", "Symbols", "TestSupport", "Trace"], exclude: ["Snapshots"]),
        tests("GDBRemote", ["Machine", "TestSupport", "Threads"]),
        .testTarget(
            name: "vmtapeTests", dependencies: ["vmtape", "Analysis", "TestSupport", "Trace"],
            exclude: ["Snapshots"], swiftSettings: strict),
    ]
)
