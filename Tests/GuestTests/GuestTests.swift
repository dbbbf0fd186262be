import Testing

@testable import Guest
