// The JDK's HttpClient with default settings: java Client.java BASE_URL < calls > answers (see tests/e2e/test_clients.py).

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.Base64;

public class Client {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        BufferedReader calls = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line = calls.readLine(); line != null; line = calls.readLine()) {
            String[] call = line.split("\t", -1); // name, mode, method, target, body, headers
            byte[] body = Base64.getDecoder().decode(call[4]);
            BodyPublisher publisher = body.length == 0 ? BodyPublishers.noBody() : BodyPublishers.ofByteArray(body);
            if (call[1].equals("chunked")) publisher = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body));
            HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(arguments[0] + call[3])).method(call[2], publisher);
            for (int at = 5; at < call.length; at++) request.header(call[at].split(": ")[0], call[at].split(": ")[1]);
            if (call[1].equals("expect")) request.expectContinue(true);
            String answer;
            try {
                var response = client.send(request.build(), BodyHandlers.ofByteArray());
                String allow = response.headers().firstValue("allow").orElse("");
                answer = "\"status\": " + response.statusCode() + ", \"allow\": \"" + allow + "\", \"body\": \""
                    + Base64.getEncoder().encodeToString(response.body()) + "\"";
            } catch (java.io.IOException error) {
                answer = "\"error\": \"" + error.toString().replace("\"", "'") + "\"";
            }
            System.out.println("{\"call\": \"" + call[0] + "\", " + answer + "}");
        }
    }
}
