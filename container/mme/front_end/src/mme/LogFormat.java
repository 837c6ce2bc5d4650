package mme;

import java.io.PrintWriter;
import java.io.StringWriter;
import java.time.LocalDate;
import java.util.TimeZone;
import org.apache.logging.log4j.Level;

/** A line of the log, as text or as a JSON object: mme/logs.py has the same for our Python. */
final class LogFormat {
    private static final long DAY_MS = 86_400_000L;
    private static final char[] HEX = "0123456789ABCDEF".toCharArray();

    private final boolean isJson;
    private final String severalLines;

    /** {@code severalLines}: the logger whose messages keep their line breaks in a text. */
    LogFormat(boolean isJson, String severalLines) {
        this.isJson = isJson;
        this.severalLines = severalLines;
    }

    /** With its end, and with the stack trace of {@code thrown}, if that is not null. */
    String line(long timeMs, Level level, String logger, String thread, String message, Throwable thrown) {
        StringBuilder to = new StringBuilder(message.length() + 160);
        String shortName = logger.substring(logger.lastIndexOf('.') + 1);
        if (isJson) {
            to.append("{\"time\": \"");
            time(to, timeMs);
            to.append("\", \"level\": \"").append(level.name()).append("\", \"logger\": \"");
            json(to, shortName);
            to.append("\", \"thread\": \"");
            json(to, thread);
            to.append("\", \"message\": \"");
            json(to, thrown == null ? message : message + "\n" + trace(thrown));
            return to.append("\"}\n").toString();
        }
        time(to, timeMs);
        to.append(" [").append(level.name());
        for (int length = level.name().length(); length < 5; length++) {
            to.append(' ');
        }
        to.append("] ").append(shortName).append(" - ");
        if (logger.equals(severalLines)) {
            to.append(message);
        } else {
            oneLine(to, message);
        }
        to.append('\n');
        return thrown == null ? to.toString() : to.append(trace(thrown)).append('\n').toString();
    }

    /** ISO 8601 in local time: 2026-11-29T19:10:28,847, or 2026-11-29T19:10:28.847+0100 in JSON. */
    private void time(StringBuilder to, long timeMs) {
        // Not by java.text or java.time.format, which would read what is known of all languages.
        int offsetMs = TimeZone.getDefault().getOffset(timeMs);
        long localMs = timeMs + offsetMs;
        LocalDate date = LocalDate.ofEpochDay(Math.floorDiv(localMs, DAY_MS));
        int ofDayMs = (int) Math.floorMod(localMs, DAY_MS);
        digits(to, date.getYear(), 4).append('-');
        digits(to, date.getMonthValue(), 2).append('-');
        digits(to, date.getDayOfMonth(), 2).append('T');
        digits(to, ofDayMs / 3_600_000, 2).append(':');
        digits(to, ofDayMs / 60_000 % 60, 2).append(':');
        digits(to, ofDayMs / 1000 % 60, 2).append(isJson ? '.' : ',');
        digits(to, ofDayMs % 1000, 3);
        if (isJson) {
            int minutes = Math.abs(offsetMs) / 60_000;
            to.append(offsetMs < 0 ? '-' : '+');
            digits(to, minutes / 60 * 100 + minutes % 60, 4);
        }
    }

    private static StringBuilder digits(StringBuilder to, int number, int count) {
        String text = Integer.toString(number);
        for (int length = text.length(); length < count; length++) {
            to.append('0');
        }
        return to.append(text);
    }

    /** A name or URL in a message comes from a request: it must not begin a line of its own, nor steer a terminal. */
    private static void oneLine(StringBuilder to, String message) {
        for (int at = 0; at < message.length(); at++) {
            char each = message.charAt(at);
            if (each == '\n') {
                to.append("\\n");
            } else if (each == '\r') {
                to.append("\\r");
            } else if (each < ' ' && each != '\t' || each == 0x7f) {
                to.append('?');
            } else {
                to.append(each);
            }
        }
    }

    private static void json(StringBuilder to, String text) {
        for (int at = 0; at < text.length(); at++) {
            char each = text.charAt(at);
            if (each == '"' || each == '\\') {
                to.append('\\').append(each);
            } else if (each == '\n') {
                to.append("\\n");
            } else if (each == '\r') {
                to.append("\\r");
            } else if (each == '\t') {
                to.append("\\t");
            } else if (each < ' ' || each >= 0x7f && each < 0xa0) {
                to.append("\\u00").append(HEX[each >> 4]).append(HEX[each & 15]);
            } else {
                to.append(each);
            }
        }
    }

    private static String trace(Throwable thrown) {
        StringWriter text = new StringWriter();
        thrown.printStackTrace(new PrintWriter(text, true));
        return text.toString().stripTrailing();
    }
}
