import ArgumentParser

@main
struct VMTape: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vmtape", abstract: "Record, replay and compare whole virtual machines.")
}
