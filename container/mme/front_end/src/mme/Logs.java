package mme;

import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentMap;
import java.util.regex.Pattern;
import org.apache.logging.log4j.Level;
import org.apache.logging.log4j.message.MessageFactory;
import org.apache.logging.log4j.spi.ExtendedLogger;
import org.apache.logging.log4j.spi.LoggerContext;
import org.apache.logging.log4j.spi.LoggerContextFactory;

/**
 * What is below Log4j's interface, in the place of Log4j's core: that reads XML, looks through 200 plug-ins and their
 * annotations, and compiles patterns, which was a third of the JVM's start. Here the two formats are code, and the rest
 * is a file of properties (mms_config.log_properties):
 *
 * <pre>
 * format=text | json
 * level=info             of all loggers that no other line speaks of
 * level.NAME=warn        of logger NAME and those below it
 * deny.NAME=REGEX        what logger NAME does not say
 * several_lines=NAME     whose messages keep their line breaks (text)
 * </pre>
 *
 * <p>The JVM is told of it by {@code -Dlog4j2.loggerContextFactory}, and of the file as MMS always does. Where the file
 * cannot be read, the JVM ends.
 */
public final class Logs implements LoggerContextFactory, LoggerContext {
    private static final String FILE = "log4j.configurationFile"; // MMS sets it (--log-config) to SCHEME and the path
    private static final String SCHEME = "file://"; // the path is as it is, blanks and all: this is no URL

    private final ConcurrentMap<String, LineLogger> loggers = new ConcurrentHashMap<>();
    private final Properties configuration = new Properties();
    private final LogFormat format;
    private final LogOutput output;

    /** Called once, by Log4j, for the first logger. */
    public Logs() {
        Path path = Path.of(System.getProperty(FILE, "").replaceFirst("^" + SCHEME, ""));
        try (InputStream file = Files.newInputStream(path)) {
            configuration.load(file);
        } catch (IOException | RuntimeException e) {
            Agent.fail(e); // Log4j would go on, and say nothing
        }
        boolean isJson = "json".equals(configuration.getProperty("format"));
        format = new LogFormat(isJson, configuration.getProperty("several_lines", ""));
        output = new LogOutput(new FileOutputStream(FileDescriptor.out));
        output.start();
    }

    private LineLogger make(String name) {
        String level = "info";
        for (String each = name; ; each = each.substring(0, Math.max(0, each.lastIndexOf('.')))) {
            String found = configuration.getProperty(each.isEmpty() ? "level" : "level." + each);
            if (found != null) {
                level = found;
                break;
            }
            if (each.isEmpty()) {
                break;
            }
        }
        String denied = configuration.getProperty("deny." + name);
        return new LineLogger(
                name, Level.toLevel(level), denied == null ? null : Pattern.compile(denied), format, output);
    }

    @Override
    public ExtendedLogger getLogger(String name) {
        LineLogger known = loggers.get(name);
        if (known == null) {
            LineLogger made = make(name);
            known = loggers.putIfAbsent(name, made);
            return known == null ? made : known;
        }
        return known;
    }

    @Override
    public ExtendedLogger getLogger(String name, MessageFactory messages) {
        return getLogger(name);
    }

    @Override
    public boolean hasLogger(String name) {
        return loggers.containsKey(name);
    }

    @Override
    public boolean hasLogger(String name, MessageFactory messages) {
        return hasLogger(name);
    }

    @Override
    public boolean hasLogger(String name, Class<? extends MessageFactory> messages) {
        return hasLogger(name);
    }

    @Override
    public Object getExternalContext() {
        return null;
    }

    @Override
    public LoggerContext getContext(String caller, ClassLoader loader, Object external, boolean isCurrent) {
        return this;
    }

    @Override
    public LoggerContext getContext(
            String caller, ClassLoader loader, Object external, boolean isCurrent, URI file, String name) {
        return this;
    }

    @Override
    public void removeContext(LoggerContext context) {
        // It lasts as long as the JVM.
    }

    @Override
    public boolean isClassLoaderDependent() {
        return false;
    }
}
