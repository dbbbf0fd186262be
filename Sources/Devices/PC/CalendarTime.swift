/// A day and a time of day, in the Gregorian calendar; no time zone.
struct CalendarTime: Equatable, Sendable {
    var year = 1970
    /// 1–12.
    var month = 1
    /// 1–31.
    var day = 1
    /// 0–23.
    var hour = 0
    var minute = 0
    var second = 0

    static let secondsPerDay = 86_400

    /// A day with fields of a clock's registers, each brought into its range.
    init(year: Int, month: Int, day: Int, hour: Int, minute: Int, second: Int) {
        self.year = year
        self.month = min(max(month, 1), 12)
        self.hour = min(max(hour, 0), 23)
        self.minute = min(max(minute, 0), 59)
        self.second = min(max(second, 0), 59)
        self.day = min(max(day, 1), Self.dayCount(of: self.month, year))
    }

    /// The time that lies this many seconds after the start of 1970.
    init(secondsSince1970 seconds: UInt64) {
        // Beyond the year 9999 no register goes; the clock stays within it.
        let seconds = Int(min(seconds, 253_402_300_799))
        var days = seconds / Self.secondsPerDay
        let rest = seconds % Self.secondsPerDay
        hour = rest / 3600
        minute = rest / 60 % 60
        second = rest % 60
        year = 1970 + days / 146_097 * 400
        days %= 146_097
        while days >= Self.dayCount(of: year) {
            days -= Self.dayCount(of: year)
            year += 1
        }
        while days >= Self.dayCount(of: month, year) {
            days -= Self.dayCount(of: month, year)
            month += 1
        }
        day = days + 1
    }

    /// The seconds of this day that have passed.
    var secondOfDay: Int { hour * 3600 + minute * 60 + second }

    /// The day of the week, 1 (Sunday) to 7.
    var weekday: Int {
        // Days since a Sunday long ago, counted with March as a year's first month.
        let shifted = month > 2 ? year : year - 1
        let offset = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4][month - 1]
        return (shifted + shifted / 4 - shifted / 100 + shifted / 400 + offset + day) % 7 + 1
    }

    /// Moves on by some seconds. Gives how many days began.
    mutating func add(seconds: UInt64) -> UInt64 {
        let (days, rest) = seconds.quotientAndRemainder(dividingBy: UInt64(Self.secondsPerDay))
        let total = secondOfDay + Int(rest)
        let timeOfDay = total % Self.secondsPerDay
        hour = timeOfDay / 3600
        minute = timeOfDay / 60 % 60
        second = timeOfDay % 60
        let began = days &+ (total >= Self.secondsPerDay ? 1 : 0)
        // The calendar repeats after 400 years; registers show no more of the year than that.
        var left = Int(began % 146_097)
        while left > 0 {
            let rest = Self.dayCount(of: month, year) - day
            guard left > rest else {
                day += left
                break
            }
            left -= rest + 1
            day = 1
            month += 1
            if month > 12 {
                month = 1
                year = (year + 1) % 10_000
            }
        }
        return began
    }

    static func dayCount(of year: Int) -> Int { isLeap(year) ? 366 : 365 }

    static func dayCount(of month: Int, _ year: Int) -> Int {
        switch month {
        case 2: isLeap(year) ? 29 : 28
        case 4, 6, 9, 11: 30
        default: 31
        }
    }

    private static func isLeap(_ year: Int) -> Bool {
        year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
    }
}
