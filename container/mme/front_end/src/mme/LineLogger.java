package mme;

import java.util.regex.Pattern;
import org.apache.logging.log4j.Level;
import org.apache.logging.log4j.Marker;
import org.apache.logging.log4j.message.Message;
import org.apache.logging.log4j.message.ParameterizedMessageFactory;
import org.apache.logging.log4j.spi.AbstractLogger;

/** One logger of {@link Logs}: it says what is of its level, and not denied. */
final class LineLogger extends AbstractLogger {
    private static final long serialVersionUID = 1L;

    private final Level level;
    private final transient Pattern denied;
    private final transient LogFormat format;
    private final transient LogOutput output;

    /** {@code denied} may be null. */
    LineLogger(String name, Level level, Pattern denied, LogFormat format, LogOutput output) {
        super(name, ParameterizedMessageFactory.INSTANCE);
        this.level = level;
        this.denied = denied;
        this.format = format;
        this.output = output;
    }

    @Override
    public Level getLevel() {
        return level;
    }

    @Override
    public void logMessage(String caller, Level level, Marker marker, Message message, Throwable thrown) {
        String text = message.getFormattedMessage();
        if (denied == null || !denied.matcher(text).matches()) {
            String thread = Thread.currentThread().getName();
            output.write(format.line(System.currentTimeMillis(), level, getName(), thread, text, thrown));
        }
    }

    private boolean says(Level asked) {
        return level.intLevel() >= asked.intLevel();
    }

    @Override
    public boolean isEnabled(Level level, Marker marker, Message m, Throwable t) {
        return says(level);
    }

    @Override
    public boolean isEnabled(Level level, Marker marker, CharSequence m, Throwable t) {
        return says(level);
    }

    @Override
    public boolean isEnabled(Level level, Marker marker, Object m, Throwable t) {
        return says(level);
    }

    @Override
    public boolean isEnabled(Level level, Marker marker, String m, Throwable t) {
        return says(level);
    }

    @Override
    public boolean isEnabled(Level level, Marker marker, String m) {
        return says(level);
    }

    @Override
    public boolean isEnabled(Level level, Marker marker, String m, Object... p) {
        return says(level);
    }

    @Override
    public boolean isEnabled(Level level, Marker marker, String m, Object p0) {
        return says(level);
    }

    @Override
    public boolean isEnabled(Level level, Marker marker, String m, Object p0, Object p1) {
        return says(level);
    }

    @Override
    public boolean isEnabled(Level level, Marker marker, String m, Object p0, Object p1, Object p2) {
        return says(level);
    }

    @Override
    public boolean isEnabled(Level level, Marker marker, String m, Object p0, Object p1, Object p2, Object p3) {
        return says(level);
    }

    @Override
    public boolean isEnabled(
            Level level, Marker marker, String m, Object p0, Object p1, Object p2, Object p3, Object p4) {
        return says(level);
    }

    @Override
    public boolean isEnabled(
            Level level, Marker marker, String m, Object p0, Object p1, Object p2, Object p3, Object p4, Object p5) {
        return says(level);
    }

    @Override
    public boolean isEnabled(
            Level level, Marker marker, String m, Object p0, Object p1, Object p2, Object p3, Object p4, Object p5, Object p6) {
        return says(level);
    }

    @Override
    public boolean isEnabled(
            Level level, Marker marker, String m, Object p0, Object p1, Object p2, Object p3, Object p4, Object p5, Object p6, Object p7) {
        return says(level);
    }

    @Override
    public boolean isEnabled(
            Level level, Marker marker, String m, Object p0, Object p1, Object p2, Object p3, Object p4, Object p5, Object p6, Object p7, Object p8) {
        return says(level);
    }

    @Override
    public boolean isEnabled(
            Level level, Marker marker, String m, Object p0, Object p1, Object p2, Object p3, Object p4, Object p5, Object p6, Object p7, Object p8, Object p9) {
        return says(level);
    }
}
