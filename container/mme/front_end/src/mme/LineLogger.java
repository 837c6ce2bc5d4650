package mme;

import java.util.regex.Pattern;
import org.apache.logging.log4j.Level;
import org.apache.logging.log4j.Marker;
import org.apache.logging.log4j.message.Message;
import org.apache.logging.log4j.message.ParameterizedMessageFactory;
import org.apache.logging.log4j.simple.SimpleLogger;
import org.apache.logging.log4j.util.PropertiesUtil;

/** One logger of {@link Logs}: it says what is of its level, which Log4j's own looks after, and not denied. */
final class LineLogger extends SimpleLogger {
    private static final long serialVersionUID = 1L;

    private final transient Pattern denied;
    private final transient LogFormat format;
    private final transient LogOutput output;

    /** {@code denied} may be null. */
    LineLogger(String name, Level level, Pattern denied, LogFormat format, LogOutput output) {
        super(
                name, level, false, false, false, false, "", ParameterizedMessageFactory.INSTANCE,
                PropertiesUtil.getProperties(), null); // what concerns its own line, which is not written
        this.denied = denied;
        this.format = format;
        this.output = output;
    }

    @Override
    public void logMessage(String caller, Level level, Marker marker, Message message, Throwable thrown) {
        String text = message.getFormattedMessage();
        if (denied == null || !denied.matcher(text).matches()) {
            String thread = Thread.currentThread().getName();
            output.write(format.line(System.currentTimeMillis(), level, getName(), thread, text, thrown));
        }
    }
}
