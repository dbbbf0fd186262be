public import ArgumentParser
public import Machine

/// As its text on the command line.
extension Destination: ExpressibleByArgument {}
